"""What one user of a machine gets at of what belongs to the others. Reads where to look, says what it found,
as JSON.

Run as the owner it finds what there is to be found, and as a neighbour what the owner has left open.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from orchestrator.rank.launch import wire

MOST_BYTES = 4 << 20
TIMEOUT_S = 60.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
SETTINGS = 4  # the type of the frame with which a server of HTTP/2 begins
# One of each service that Ray 2.60 has on a node.
CALLS = (
    "ray.rpc.NodeInfoGcsService/GetAllNodeInfo", "ray.rpc.InternalKVGcsService/InternalKVKeys",
    "ray.rpc.NodeManagerService/GetNodeStats", "ray.rpc.ObjectManagerService/Pull",
    "ray.rpc.CoreWorkerService/GetCoreWorkerStats", "ray.rpc.ReporterService/GetTraceback",
    "ray.rpc.RayletDriver/KVList",
)  # fmt: skip
# One who may ask at all may also have code run.
PAGES = ("/api/version", "/api/jobs/", "/api/job_agent/jobs/", "/logs")


class Look:
    """``mine`` is never looked at; ``needles`` are values by name that nobody else is to see. Who has the
    ``token`` is the owner, and asks only what disturbs nothing."""

    def __init__(
        self, roots: list[str], mine: list[str], needles: dict[str, str], ports: list[int], token: str | None
    ) -> None:
        self.roots, self.mine, self.token, self.listening = roots, mine, token, ports
        self.needles = {name: value.encode() for name, value in needles.items()}
        self.found: list[str] = []

    def search(self, where: str, content: bytes) -> None:
        self.found += [f"{name} in {where}" for name, value in self.needles.items() if value in content]

    def files(self) -> dict[str, list[str]]:
        """Which files can be read, and which files and folders be written."""
        readable, writable = [], []
        for root in self.roots:
            for folder, folders, names in os.walk(root):
                folders[:] = [each for each in folders if os.path.join(folder, each) not in self.mine]
                with contextlib.suppress(OSError):
                    os.mkdir(f"{folder}/was-here")
                    os.rmdir(f"{folder}/was-here")
                    writable.append(folder)
                for path in (os.path.join(folder, name) for name in names):
                    with contextlib.suppress(OSError):
                        self.search(path, self.content(path))
                        readable.append(path)
                    with contextlib.suppress(OSError):
                        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK))
                        writable.append(path)
        return {"readable": readable, "writable": writable}

    def content(self, path: str) -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.read(fd, MOST_BYTES)
        finally:
            os.close(fd)

    def processes(self) -> dict[str, list[str]]:
        """What /proc gives away of processes, by the kind of file."""
        given: dict[str, list[str]] = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) == os.getpid():
                continue
            for name in ("cmdline", "environ", "maps", "stack"):
                with contextlib.suppress(OSError):
                    self.search(f"/proc/{pid}/{name}", self.content(f"/proc/{pid}/{name}"))
                    given.setdefault(name, []).append(pid)
            for name in ("fd", "root", "cwd"):
                with contextlib.suppress(OSError):
                    os.listdir(f"/proc/{pid}/{name}")
                    given.setdefault(name, []).append(pid)
        return given

    def sockets(self) -> dict[str, str]:
        """What happens to who connects to each socket of the machine that has a name."""
        met = {}
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            words = line.split(maxsplit=7)
            if len(words) == 8 and words[3] == "00010000":  # it listens
                name = words[7]
                if self.token and not name.startswith("@orchestrator"):
                    continue
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
                    channel.settimeout(TIMEOUT_S)
                    try:
                        channel.connect("\0" + name[1:] if name.startswith("@") else name)
                        wire.send(channel, {"op": "usage", "id": 1})
                        met[name] = "answers" if channel.recv(1) else "hangs up"
                    except TimeoutError:
                        met[name] = "answers"  # it waits for more
                    except PermissionError:
                        met[name] = "is out of reach"
                    except OSError:
                        met[name] = "hangs up"
        return met

    def ports(self) -> dict[str, dict[str, str]]:
        """What whoever listens there says to each request, by port and request."""
        said: dict[str, dict[str, str]] = {}
        for port in self.listening:
            first = first_words(port)
            if first[3:4] == bytes([SETTINGS]):
                said[f"{port} gRPC"] = dict(self.called(port))
            elif first.startswith(b"HTTP/1"):
                said[f"{port} HTTP"] = dict(self.fetched(port))
        return said

    def called(self, port: int) -> Iterator[tuple[str, str]]:
        shown = [("authorization", f"Bearer {self.token}")] if self.token else []
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for call in CALLS:
                try:
                    answer = channel.unary_unary(f"/{call}")(b"", timeout=TIMEOUT_S, metadata=shown)
                    self.search(f"{port} {call}", answer)
                    yield call, "OK"
                except grpc.RpcError as error:
                    yield call, error.code().name

    def fetched(self, port: int) -> Iterator[tuple[str, str]]:
        shown = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        job = json.dumps({"entrypoint": "touch /tmp/a-job-was-here"})
        asked = [("GET", page, None) for page in PAGES]
        asked += [] if self.token else [("POST", page, job) for page in PAGES]
        for method, page, body in asked:
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            with contextlib.closing(line), contextlib.suppress(OSError):
                line.request(method, page, body, {"Content-Type": "application/json", **shown})
                answer = line.getresponse()
                self.search(f"{port} {page}", answer.read())
                yield f"{method} {page}", str(answer.status)


def first_words(port: int) -> bytes:
    """Of whoever listens, to one who speaks HTTP/2; nothing of what speaks neither HTTP nor gRPC."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as line:
        line.sendall(PREFACE)
        return line.recv(16)
    return b""


def main() -> None:
    told: dict[str, Any] = json.load(sys.stdin)
    look = Look(told["roots"], told["mine"], told["needles"], told["ports"], told["token"])
    seen: dict[str, Any] = look.files()
    if told["everything"]:
        seen |= {"processes": look.processes(), "sockets": look.sockets(), "ports": look.ports()}
    print(json.dumps({**seen, "found": look.found}))


if __name__ == "__main__":
    main()
