"""What an assignment becomes on the node that carries it out, which folders nodes have in common, who is who
there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from orchestrator.agent import facts
from orchestrator.agent.assignment import Assignment
from orchestrator.config.placeholders import INTERFACE, asks_for
from orchestrator.processes import same_process, start_of

Interfaces = Mapping[str, Iterable[str]]


def on_node(assignment: Assignment, unpacked: str, there: Interfaces, address: str) -> Assignment:
    """The assignment with this node's paths and interface in it.

    ``unpacked`` is where Ray has put the working directory, if the run ships one; ``there`` are
    the addresses of each interface by name, ``address`` is the node's in Ray. Raises ``ValueError``
    where an interface is asked for and none has that address.
    """
    program = assignment.program
    environment = program.environment
    if asks_for(INTERFACE, environment.values()):
        name = interface_of(address, there)
        environment = {key: value.replace(INTERFACE, name) for key, value in environment.items()}
    shipped = assignment.launch.working_dir
    if shipped is None:
        return replace(assignment, program=replace(program, environment=environment))
    here = replace(
        program,
        environment=environment,
        script=moved(program.script, shipped, unpacked),
        cwd=moved(program.cwd, shipped, unpacked),
        corpus=[moved(source, shipped, unpacked) for source in program.corpus],
        args=[_moved_argument(arg, shipped, unpacked) for arg in program.args],
    )
    return replace(assignment, program=here)


def differences(assignment: Assignment) -> list[str]:
    """What about this node differs from the plan. Raises :class:`ConfigError` for what is not there at
    all."""
    program, ranks = assignment.program, assignment.ranks
    seen = facts.observe(program.file, program.corpus, Path(program.cwd), alone=program.is_command)
    problems = facts.differences(assignment.expected, seen)
    if not Path(program.cwd).is_dir():
        problems.append(
            f"job.cwd: no folder {program.cwd}; make it there, or ship it with launch.working_dir"
        )
    if ranks.device == "cuda":
        problems += facts.gpu_differences(ranks.product_names, ranks.per_node)
    return problems


def interfaces() -> dict[str, list[str]]:
    """The addresses of each network interface of this node by its name."""
    return {name: [held.address for held in addresses] for name, addresses in psutil.net_if_addrs().items()}


def interface_of(address: str, there: Interfaces) -> str:
    """The network interface that has an address. Raises ``ValueError``, naming those there are."""
    for name, addresses in there.items():
        if address in (held.partition("%")[0] for held in addresses):  # %: the zone of an IPv6 address
            return name
    raise ValueError(
        f"no network interface has the node's address in Ray, {address} (there are {', '.join(there)}); name "
        "the one that joins the nodes, e.g. +env.GLOO_SOCKET_IFNAME=eth0 +env.NCCL_SOCKET_IFNAME=eth0"
    )


def moved(path: str, folder: str, to: str) -> str:
    """A path at or below ``folder`` as it is below ``to``; any other path, and a relative one, as it was."""
    if path == folder or path.startswith(f"{folder.rstrip('/')}/"):
        return to + path[len(folder.rstrip("/")) :]
    return path


def _moved_argument(arg: str, folder: str, to: str) -> str:
    """``--name=path,path``, as the plan writes arguments."""
    name, equals, value = arg.partition("=")
    return name + equals + ",".join(moved(part, folder, to) for part in value.split(","))


def leave_mark(folder: Path) -> str:
    """Leave a file of a new name, by which others can tell that they see the same folder; returns the
    name."""
    mark = f".seen-{secrets.token_hex(8)}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / mark).touch()
    return mark


def sees_mark(folder: Path, mark: str) -> bool:
    """Whether the folder here is the one that the mark was left in."""
    return (folder / mark).exists()


def unshared(checkpoint_dir: str, writer: str, blind: Iterable[str]) -> str:
    """The warning that nodes cannot see what another one writes."""
    return (
        f"job.checkpoint_dir={checkpoint_dir}: {', '.join(blind)} cannot see what {writer} writes there, so a"
        " restart could not load its checkpoints; set it to a folder on a filesystem that all nodes share"
    )


def remove_mark(folder: Path, mark: str) -> None:
    """Take the mark away again."""
    (folder / mark).unlink(missing_ok=True)


def identity() -> dict[str, Any]:
    """This process's number and when it started, by which :func:`kill_process` knows it again."""
    return {"pid": os.getpid(), "start": start_of()}


def kill_process(pid: int, start: str) -> None:
    """SIGKILL to a process of this node; to nobody where it has ended, whoever has its number now."""
    with contextlib.suppress(psutil.Error, OSError):
        if (process := same_process(pid, start)) is not None:
            process.kill()
