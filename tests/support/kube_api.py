"""An API server of Kubernetes on loopback, with a certificate of its own, that has some Workloads and checks
who asks for what."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority

NAMESPACE = "team-a"


@dataclass
class Asked:
    verb: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class KubeApi:
    """``refuses`` is the status that all requests get, 0: none. ``account`` is the folder that a pod has."""

    account: Path
    port: int = 0
    workloads: list[dict[str, Any]] = field(default_factory=list)
    nodes: dict[str, dict[str, str]] = field(default_factory=dict)  # labels by name
    asked: list[Asked] = field(default_factory=list)
    refuses: int = 0

    @property
    def patches(self) -> list[Any]:
        return [one.body for one in self.asked if one.verb == "PATCH"]

    def token(self, value: str) -> None:
        """Kubernetes writes a new one every hour."""
        (self.account / "token").write_text(value)


def workload(name: str, kind: str, owner: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "ownerReferences": [{"kind": kind, "name": owner}]}}


@contextmanager
def kube_api(folder: Path, port: int = 0) -> Iterator[KubeApi]:
    account = folder / "serviceaccount"
    account.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder / "authority")
    (account / "ca.crt").write_bytes(authority.certificate.read_bytes())
    (account / "namespace").write_text(NAMESPACE)
    api = KubeApi(account)
    api.token("first-token")

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.command, self.path, dict(self.headers), json.loads(body) if body else None)
            api.asked.append(asked)
            said: dict[str, Any] = {"items": api.workloads}
            status = api.refuses or 200
            if self.path.startswith("/api/v1/nodes/"):
                name = self.path.rpartition("/")[2]
                said = {"kind": "Node", "metadata": {"name": name, "labels": api.nodes.get(name)}}
                status = api.refuses or (200 if name in api.nodes else 404)
            if api.refuses:
                said = {"kind": "Status", "message": "workloads.kueue.x-k8s.io is forbidden"}
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            self.answer()

        def do_PATCH(self) -> None:
            self.answer()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("server", "127.0.0.1"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    api.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
