"""No test leaves a store of the queue open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.opened_stores import close_all


@pytest.fixture(autouse=True)
def stores_are_closed() -> Iterator[None]:
    yield
    close_all()
