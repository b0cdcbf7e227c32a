"""Ray's own TLS: its files, and whether the other side speaks it, looked at before Ray is asked. Imports no
Ray.

Of a certificate that is missing, foreign or made out to another address Ray tells nothing: it tries for
minutes, and then says that nobody answers.
"""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

from orchestrator.errors import ClusterUnreachable, ConfigError

SWITCH = "RAY_USE_TLS"
CERTIFICATE, KEY, AUTHORITY = "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"
LOOPBACK = "127.0.0.1"
# What a client of gRPC says first, and what tells a server's first words: a frame of settings.
_PREFACE, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 4
_FRAME_BYTES = 9
# Whoever is silent for longer is left to Ray.
_TIMEOUT_S = 3.0


def is_on() -> bool:
    """Whether this shell asks Ray to encrypt."""
    return os.environ.get(SWITCH, "").lower() in ("1", "true")


def check_own(address: str = LOOPBACK) -> None:
    """Whether a Ray that is started here, to be reached at ``address``, can speak to itself by the
    certificate given.

    Raises :class:`ConfigError`.
    """
    if not is_on():
        return
    client, server = _context(ssl.PROTOCOL_TLS_CLIENT), _context(ssl.PROTOCOL_TLS_SERVER)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(back, there, server_hostname=address),
        server.wrap_bio(there, back, server_side=True),
    ]
    for side in 2 * sides:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            raise ConfigError(
                f"{CERTIFICATE}={os.environ[CERTIFICATE]}: Ray's processes at {address} would not take it"
                f" from each other ({_reason(error)}); {AUTHORITY} must have signed it, and its"
                f" subjectAltName must have IP:{address}"
            ) from None


def check_other(address: str) -> None:
    """Whether the Ray at ``host:port`` encrypts if this shell asks for it, and only then, and each takes the
    other's certificate. Raises :class:`ClusterUnreachable`, and :class:`ConfigError` for files that are none.
    """
    host, _, port = address.rpartition(":")
    if is_on():
        _greet_encrypted(host, int(port))
    elif _first_words(host, int(port))[3:4] != bytes([_SETTINGS]) and _encrypts(host, int(port)):
        raise ClusterUnreachable(
            f"ray_address={address}: that Ray encrypts what it sends, and asks for a certificate; set"
            f" {SWITCH}=1, {CERTIFICATE}, {KEY} and {AUTHORITY} as they are where it was started"
        )


def _greet_encrypted(host: str, port: int) -> None:
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])  # gRPC hangs up on those who do not say so
    where = f"ray_address={host}:{port}"
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_S) as line,
            context.wrap_socket(line, server_hostname=host) as encrypted,
        ):
            taken: bool | None = _is_answered(encrypted)
    except ssl.SSLCertVerificationError as error:
        raise ClusterUnreachable(
            f"{where}: its certificate is not taken ({_reason(error)}); {AUTHORITY}={os.environ[AUTHORITY]}"
            f" must have signed it, and its subjectAltName must have {host}"
        ) from None
    except ssl.SSLError as error:
        taken = (
            None if error.reason == "WRONG_VERSION_NUMBER" or isinstance(error, ssl.SSLEOFError) else False
        )
    except OSError:  # it is gone, or slow: Ray asks for longer
        return
    if taken is None:
        raise ClusterUnreachable(
            f"{where}: that Ray does not encrypt what it sends, and {SWITCH}={os.environ[SWITCH]} asks for"
            f" it; unset {SWITCH}, or start that Ray with it"
        )
    if not taken:
        raise ClusterUnreachable(
            f"{where}: it does not take {CERTIFICATE}={os.environ[CERTIFICATE]}; what its own {AUTHORITY}"
            " names must have signed it"
        )


def _is_answered(encrypted: ssl.SSLSocket) -> bool:
    """Only now the other side tells what it thinks of our certificate: it hangs up, with a word or
    without."""
    try:
        encrypted.sendall(_PREFACE)
        return bool(encrypted.recv(_FRAME_BYTES))
    except TimeoutError:
        return True
    except OSError:
        return False


def _first_words(host: str, port: int) -> bytes:
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as line:
            line.sendall(_PREFACE)
            return line.recv(_FRAME_BYTES)
    except TimeoutError:  # nobody hangs up on us
        return bytes([0, 0, 0, _SETTINGS])
    except OSError:
        return b""


def _encrypts(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as line, context.wrap_socket(line):
            return True
    except OSError:
        return False


def _context(protocol: int) -> ssl.SSLContext:
    """With the certificate and authority of this shell. Raises :class:`ConfigError`."""
    for name in (CERTIFICATE, KEY, AUTHORITY):
        path = os.environ.get(name)
        if not path:
            needed = f"Ray needs {CERTIFICATE}, {KEY} and {AUTHORITY}"
            raise ConfigError(f"{SWITCH}={os.environ[SWITCH]}: {name} is not set; {needed}")
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise ConfigError(
                f"{name}={path}: {error.strerror}; name a file in PEM format that you may read"
            ) from None
    context, named = ssl.SSLContext(protocol), CERTIFICATE
    try:
        context.load_cert_chain(os.environ[CERTIFICATE], os.environ[KEY], password="")
        named = AUTHORITY
        context.load_verify_locations(os.environ[AUTHORITY])
    except (ssl.SSLError, ValueError) as error:
        both = f" with {KEY}={os.environ[KEY]}" if named == CERTIFICATE else ""
        raise ConfigError(
            f"{named}={os.environ[named]}{both}: {_reason(error)}; name a certificate in PEM format"
            + (", and the key to it, which may have no password" if both else "")
        ) from None
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: Exception) -> str:
    reason = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
    return str(reason).replace("_", " ").lower()
