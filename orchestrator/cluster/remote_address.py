"""Whether the dashboard of a Ray that is away answers, and takes our token, asked before Ray is imported.
Imports no Ray.

Ray's own client says of a certificate that is not trusted, and of a port at which somebody else listens, that
it failed to connect.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import ssl
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from orchestrator.cluster.ray_env import TOKEN_VARIABLES, check_token
from orchestrator.errors import ConfigError
from orchestrator.papers import one_line, short

EXAMPLE = "http://HOST:8265"
_ASK_S = 10.0
_MOST_BYTES = 1 << 16
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_GCS_PORT = 6379
_GET_A_TOKEN = (
    "set RAY_AUTH_TOKEN, or write ~/.ray/auth_token, to what 'ray get-auth-token' prints on a node of that"
    " cluster"
)


def token() -> str | None:
    """What is shown to the cluster: of RAY_AUTH_TOKEN, of the file that RAY_AUTH_TOKEN_PATH names, or of the
    user's own, as Ray looks for it.

    Raises :class:`ConfigError` for one that cannot be read, or is none.
    """
    value, path = (os.environ.get(name) for name in TOKEN_VARIABLES)
    where = TOKEN_VARIABLES[0]
    if not value:
        own = check_token() if not path else Path(path)
        if own is None:
            return None
        where = f"{TOKEN_VARIABLES[1]}={own}" if path else str(own)
        try:
            value = own.read_text(errors="replace")
        except OSError as error:
            raise ConfigError(f"{where}: {error.strerror}; name a file with the cluster's token") from None
    value = value.strip()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigError(f"{where}: holds no token, which is one word; {_GET_A_TOKEN}")
    return value


def check_address(address: str, ca: str | None, shown: str | None) -> None:
    """Raises :class:`ConfigError` unless a Ray's dashboard answers at ``address`` and takes the token
    ``shown``. ``ca`` is a file of certificates to trust beside those of this machine."""
    _check_form(address)
    headers = {"Authorization": f"Bearer {shown}"} if shown else {}
    request = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=headers)
    opener = urllib.request.build_opener(
        _NoRedirects, urllib.request.HTTPSHandler(context=_trusting(ca) if address[4:5] == "s" else None)
    )
    try:
        with opener.open(request, timeout=_ASK_S) as answer:
            body = answer.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(address, error, shown) from None
    except (OSError, http.client.HTTPException) as error:
        raise _unanswered(address, error) from None
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict) or "ray_version" not in said:
        raise ConfigError(
            f"{address}: something else than Ray's dashboard answers there; 'status' on the cluster prints"
            f" the dashboard's address, e.g. {EXAMPLE}"
        )


def is_overheard(address: str) -> bool:
    """Whether others can read what is sent there, the token included."""
    parts = urlsplit(address)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True


def _check_form(address: str) -> None:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise ConfigError(f"{short(address)}: is no address; write e.g. {EXAMPLE}") from None
    if parts.username or parts.password:
        raise ConfigError(f"{EXAMPLE}: an address with a password in it is seen by everybody; {_GET_A_TOKEN}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{short(address)}: expected the address of the cluster's dashboard, {EXAMPLE} or https://HOST"
        )
    if port == _GCS_PORT:
        raise ConfigError(
            f"{address}: that is the port of Ray's control store, which is not for the way from outside; the"
            f" dashboard is at 8265 as a rule, {EXAMPLE}"
        )


def _trusting(ca: str | None) -> ssl.SSLContext:
    """What this machine trusts, and the certificates in ``ca``."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "strerror", None) or "no certificate in PEM format in it"
            raise ConfigError(f"--ca {ca}: {why}; name a file of certificates") from None
    return context


def _refused(address: str, error: urllib.error.HTTPError, shown: str | None) -> ConfigError:
    if error.code in (_UNAUTHORIZED, _FORBIDDEN):
        why = "asks for a token" if shown is None else "asks for a token, and this is not it"
        return ConfigError(f"{address}: the cluster {why} (HTTP {error.code}); {_GET_A_TOKEN}")
    if 300 <= error.code < 400:
        to = short(error.headers.get("Location", ""))
        return ConfigError(f"{address}: is at another address, {to}; give that one, if you trust it")
    if error.code == _NOT_FOUND:
        return ConfigError(
            f"{address}: something else than Ray's dashboard answers there (HTTP 404 for /api/version); give"
            f" the dashboard's address, e.g. {EXAMPLE}"
        )
    return ConfigError(f"{address}: answers with HTTP {error.code} ({short(error.reason)}); try again later")


def _unanswered(address: str, error: Exception) -> ConfigError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ConfigError(
            f"{address}: its certificate is not trusted ({cause.verify_message}); name the one that signed"
            " it, --ca FILE in PEM format"
        )
    if isinstance(cause, ssl.SSLError | http.client.BadStatusLine | ConnectionResetError):
        other = address.replace("https", "http", 1) if address[4:5] == "s" else f"https{address[4:]}"
        spoken = "https" if address[4:5] == "s" else "http"
        return ConfigError(f"{address}: does not speak {spoken}; is it {other}?")
    said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return ConfigError(
        f"{address}: nothing answers there ({one_line(str(said))}); is the cluster up, and its dashboard"
        " within reach? One on the head's loopback is reached by 'ssh -N -L 8265:127.0.0.1:8265 HEAD', as"
        " http://127.0.0.1:8265"
    )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Our token is for the address that was given."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None
