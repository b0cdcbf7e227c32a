"""As much of Kubernetes' API as a pod needs to change one object, or to look at its node: three requests, by
what its service account shows. Kubernetes' own client for Python is some thirty thousand files for that."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator.config.kueue_schema import HOST, PORT, SERVICE_ACCOUNT
from orchestrator.papers import one_line

_ANSWER_S = 10.0
_MOST_BYTES, _MOST_SAID = 16 << 20, 300
MERGE_PATCH = "application/merge-patch+json"


class NotAnswered(Exception):
    """A request came to nothing; the message says why. ``status`` is HTTP's, 0 where nobody answered."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(one_line(why))
        self.status = status


class KubernetesApi:
    """The server that the environment names. ``account`` is the folder of the service account: its token is
    read for each request, since Kubernetes writes a new one every hour."""

    def __init__(self, account: Path = SERVICE_ACCOUNT) -> None:
        host = os.environ.get(HOST, "")
        self._root = f"https://{f'[{host}]' if ':' in host else host}:{os.environ.get(PORT) or 443}"
        self._account = account

    def namespace(self) -> str:
        """That of this pod. Raises :class:`NotAnswered`."""
        return self._read("namespace")

    def objects(self, group: str, namespace: str, kind: str) -> list[dict[str, Any]]:
        """All of a kind, e.g. ``workloads`` of ``kueue.x-k8s.io/v1beta2``. Raises :class:`NotAnswered`."""
        found = self._ask("GET", _path(group, namespace, kind), None)
        items = found.get("items") if isinstance(found, dict) else None
        return [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []

    def node(self, name: str) -> dict[str, Any]:
        """A node of the cluster. Raises :class:`NotAnswered`."""
        found = self._ask("GET", f"/api/v1/nodes/{quote(name, safe='')}", None)
        return found if isinstance(found, dict) else {}

    def merge(self, group: str, namespace: str, kind: str, name: str, change: dict[str, Any]) -> None:
        """Change these fields of an object, and no others; null takes one out. Raises
        :class:`NotAnswered`."""
        self._ask("PATCH", f"{_path(group, namespace, kind)}/{quote(name, safe='')}", change)

    def _ask(self, verb: str, path: str, change: dict[str, Any] | None) -> Any:
        headers = {"Authorization": f"Bearer {self._read('token')}", "Accept": "application/json"}
        body = None
        if change is not None:
            body, headers["Content-Type"] = json.dumps(change).encode(), MERGE_PATCH
        request = urllib.request.Request(self._root + path, body, headers, method=verb)
        # No proxy of the environment's is asked for what is inside of the cluster, nor shown the token.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._trusting())
        )
        try:
            with opener.open(request, timeout=_ANSWER_S) as answer:
                return json.loads(answer.read(_MOST_BYTES) or b"null")
        except urllib.error.HTTPError as error:
            with error:
                raise NotAnswered(f"HTTP {error.code} {error.reason}{_message(error)}", error.code) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise NotAnswered(
                str(getattr(reason, "strerror", None) or reason or type(error).__name__)
            ) from None

    def _trusting(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(self._account / "ca.crt"))
        except (OSError, ssl.SSLError) as error:
            raise NotAnswered(
                f"{self._account / 'ca.crt'}: {getattr(error, 'strerror', None) or error}"
            ) from None

    def _read(self, name: str) -> str:
        try:
            return (self._account / name).read_text().strip()
        except (OSError, ValueError) as error:
            raise NotAnswered(
                f"{self._account / name}: {getattr(error, 'strerror', None) or error}"
            ) from None


def _path(group: str, namespace: str, kind: str) -> str:
    return f"/apis/{group}/namespaces/{quote(namespace, safe='')}/{kind}"


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says of it: the message of a Status, within bounds."""
    try:
        said = json.loads(error.read(_MOST_BYTES))
        return f": {str(said['message'])[:_MOST_SAID]}"
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return ""
