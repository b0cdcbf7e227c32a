"""Ray's TLS: what Ray would try for minutes is refused at once, with what to set."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.cluster import tls
from orchestrator.errors import ClusterUnreachable, ConfigError
from tests.support.certificates import Authority

# How a server of gRPC begins.
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"))


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Sets variables in one that has none of Ray's."""
    for name in (tls.SWITCH, tls.CERTIFICATE, tls.KEY, tls.AUTHORITY):
        monkeypatch.delenv(name, raising=False)
    return lambda variables: [monkeypatch.setenv(*each) for each in variables.items()] and None


@contextlib.contextmanager
def server(variables: dict[str, str] | None) -> Iterator[str]:
    """Says one word to everybody, encrypted to those whose certificate it takes, or to all as it is."""
    context = None
    if variables:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(variables[tls.CERTIFICATE], variables[tls.KEY])
        context.load_verify_locations(variables[tls.AUTHORITY])
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])

    def serve() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), line:
                if context is None:
                    line.sendall(SETTINGS)
                    line.recv(100)
                else:
                    with context.wrap_socket(line, server_side=True) as encrypted:
                        if encrypted.selected_alpn_protocol() != "h2":  # as gRPC does
                            continue
                        encrypted.sendall(SETTINGS)
                        encrypted.recv(100)

    with socket.create_server((HERE, 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"{HERE}:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def test_each_takes_the_other(ours: Authority, shell: Callable[[dict[str, str]], None]) -> None:
    with server(None) as plain:
        tls.check_other(plain)
    tls.check_own()
    shell(ours.variables("node", HERE, "10.0.0.1"))
    with server(ours.variables("head", HERE)) as encrypted:
        tls.check_other(encrypted)
    tls.check_own()
    tls.check_own("10.0.0.1")


def test_one_encrypts_and_the_other_does_not(
    ours: Authority, shell: Callable[[dict[str, str]], None]
) -> None:
    with (
        server(ours.variables("head", HERE)) as encrypted,
        pytest.raises(
            ClusterUnreachable, match=r"encrypts what it sends.*set RAY_USE_TLS=1, RAY_TLS_SERVER_CERT, "
        ),
    ):
        tls.check_other(encrypted)
    shell(ours.variables("node", HERE))
    with (
        server(None) as plain,
        pytest.raises(ClusterUnreachable, match=r"does not encrypt.*unset RAY_USE_TLS, or start"),
    ):
        tls.check_other(plain)


def test_a_certificate_that_somebody_does_not_take(
    ours: Authority, theirs: Authority, shell: Callable[[dict[str, str]], None]
) -> None:
    shell(ours.variables("node", HERE))
    with (
        server(theirs.variables("head", HERE)) as other,
        pytest.raises(ClusterUnreachable, match=r"not taken \(.*certificate.*RAY_TLS_CA_CERT=.*signed it"),
    ):
        tls.check_other(other)
    with (
        server(ours.variables("elsewhere", "10.0.0.1")) as other,
        pytest.raises(ClusterUnreachable, match=rf"address mismatch.*subjectAltName must have {HERE}"),
    ):
        tls.check_other(other)
    shell(theirs.variables("stranger", HERE) | {tls.AUTHORITY: str(ours.certificate)})
    with (
        server(ours.variables("head", HERE)) as other,
        pytest.raises(
            ClusterUnreachable,
            match=r"does not take RAY_TLS_SERVER_CERT=.*stranger.crt; what its own RAY_TLS_CA_CERT",
        ),
    ):
        tls.check_other(other)
    with pytest.raises(ConfigError, match=r"would not take it from each other \("):
        tls.check_own()


def test_a_ray_that_is_started_here_could_not_speak_to_itself(
    ours: Authority, shell: Callable[[dict[str, str]], None]
) -> None:
    for name, addresses in (("nameless", ()), ("elsewhere", ("10.0.0.1",))):
        shell(ours.variables(name, *addresses))
        with pytest.raises(
            ConfigError, match=f"processes at {HERE} would not .*subjectAltName must have IP:{HERE}"
        ):
            tls.check_own()


def test_files_that_are_none(
    ours: Authority, tmp_path: Path, shell: Callable[[dict[str, str]], None]
) -> None:
    shell({tls.SWITCH: "true"})
    with pytest.raises(ConfigError, match="RAY_USE_TLS=true: RAY_TLS_SERVER_CERT is not set"):
        tls.check_own()
    good = ours.variables("node", HERE)
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("none")
    for name, path, said in (
        (tls.KEY, tmp_path / "absent", r"RAY_TLS_SERVER_KEY=.*absent: No such file"),
        (
            tls.CERTIFICATE,
            no_pem,
            r"RAY_TLS_SERVER_CERT=.*no.pem with RAY_TLS_SERVER_KEY=.*name a certificate in PEM",
        ),
        (
            tls.KEY,
            ours.sign("other")[1],
            r"RAY_TLS_SERVER_CERT=.*node.crt with .*other.key: key values mismatch",
        ),
        (tls.AUTHORITY, no_pem, r"RAY_TLS_CA_CERT=.*no.pem: .*name a certificate in PEM format$"),
    ):
        shell(good | {name: str(path)})
        with pytest.raises(ConfigError, match=said):
            tls.check_other(f"{HERE}:1")


def test_whoever_is_gone_or_silent_is_left_to_ray(
    ours: Authority, shell: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_TIMEOUT_S", 0.05)
    with socket.create_server((HERE, 0)) as silent:
        address = f"{HERE}:{silent.getsockname()[1]}"
        for variables in ({}, ours.variables("node", HERE)):
            shell(variables)
            tls.check_other(address)
    tls.check_other(address)
