"""A way to a server that can be made slow, stuck or torn."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from enum import StrEnum

from tests.support.ports import free_port

LOOK_S = 0.02


class Trouble(StrEnum):
    NONE = "none"
    SLOW = "each answer comes late"
    STUCK = "no answer comes"
    TORN = "connections are torn, new ones too"


class Proxy:
    """Passes on what goes to and comes from a port of 127.0.0.1. ``trouble`` may be set at any time.

    What is held back while the way is stuck comes once it is not: neither side is told that anything was
    wrong.
    """

    def __init__(self, port: int, chance: random.Random, slow_s: tuple[float, float] = (2.0, 8.0)) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.trouble = Trouble.NONE
        self._target, self._chance, self._slow_s = port, chance, slow_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._listens.wait()

    def close(self) -> None:
        """End it and all connections through it."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    async def _serve(self) -> None:
        """Returns once no connection is left: one that asyncio.run had to cancel before it began would leave
        its socket to the garbage collector."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self._listens.set()
        await self._closing.wait()
        server.close()
        self.trouble = Trouble.TORN
        await asyncio.sleep(LOOK_S)
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(LOOK_S)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.trouble is Trouble.TORN:
            return
        answers, questions = await asyncio.open_connection("127.0.0.1", self._target)
        asked = asyncio.Event()

        async def ask() -> None:
            while data := await reader.read(1 << 16):
                asked.set()
                questions.write(data)
            questions.write_eof()

        async def answer() -> None:
            while data := await answers.read(1 << 16):
                if asked.is_set():
                    asked.clear()
                    await self._hold_back()
                writer.write(data)
            await writer.drain()

        both = [asyncio.create_task(one()) for one in (ask, answer)]
        try:
            while not both[1].done() and self.trouble is not Trouble.TORN:
                await asyncio.wait(both[1:], timeout=LOOK_S)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            questions.transport.abort()

    async def _hold_back(self) -> None:
        if self.trouble is Trouble.SLOW:
            await asyncio.sleep(self._chance.uniform(*self._slow_s))
        while self.trouble is Trouble.STUCK:
            await asyncio.sleep(LOOK_S)
