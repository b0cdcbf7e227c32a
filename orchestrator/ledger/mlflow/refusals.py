"""What MLflow's client raises about a server, said as people say it; with what to do where a server does not
let us, since waiting mends none of that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException

from orchestrator.errors import ConfigError, TrackingError
from orchestrator.ledger.mlflow.credentials import PASSWORD, TOKEN, USER
from orchestrator.ledger.mlflow.server import reason_of, without_credentials

_UNAUTHORIZED, _FORBIDDEN = 401, 403


class ServerRefuses(TrackingError):
    """A person has to do something; the message says what. Trying again is right all the same: they may
    have."""


@contextmanager
def in_words(uri: str, experiment: str) -> Iterator[None]:
    """Raise :class:`ServerRefuses` for what a server does not let this user do, ``ConnectionError`` while it
    is away: MLflow's own words for that are the address, with its password, before the reason."""
    try:
        yield
    except ConfigError as error:  # a database's server, asked before MLflow asks it
        raise ServerRefuses(str(error)) from error
    except MlflowException as error:
        status = error.get_http_status_code()
        if status == _UNAUTHORIZED:
            raise ServerRefuses(
                f"{without_credentials(uri)} does not take these credentials any more (HTTP 401); set {USER}"
                f" and {PASSWORD}, or {TOKEN}, to what it takes"
            ) from error
        if status == _FORBIDDEN:
            raise ServerRefuses(
                f"{without_credentials(uri)} does not let this user write to experiment {experiment!r} (HTTP"
                " 403); ask whoever keeps it for EDIT on it, or name one of your own with tracking.experiment"
            ) from error
        if isinstance(first := _first(error), OSError):
            raise ConnectionError(
                f"{without_credentials(uri)} does not answer: {reason_of(first)}"
            ) from error
        raise


def _first(error: BaseException) -> BaseException:
    """What all the others in the chain were raised for."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error
