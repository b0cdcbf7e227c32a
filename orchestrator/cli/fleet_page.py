"""``fleet page``: the fleet as a page, written into a file or served on loopback."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.args import Invocation
from orchestrator.cli.show.screen import Screen
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.dispatch.fleet_seen import FleetWatch

AGAIN_S = 15.0


def fleet(composed: DictConfig, invocation: Invocation) -> int:
    """Raises :class:`ConfigError` where there is no queue, or the page cannot be written or served."""
    from orchestrator.cli.show.fleet_page import PAST_S, fleet_page
    from orchestrator.cli.show.written import place_of, write_at
    from orchestrator.dispatch.fleet_seen import FleetWatch
    from orchestrator.text import bytes_in_words

    watch = FleetWatch(Path(composed.run_root), PAST_S)
    if invocation.html is not None:
        if invocation.port is not None or invocation.browser:
            flag = "--port" if invocation.port is not None else "--browser"
            raise ConfigError(f"{flag}: is of a page that is served; leave it out beside --html")
        place = place_of("--html", invocation.html)
        text = fleet_page(watch.look())
        write_at("--html", place, text)
        _say(f"{place}: {bytes_in_words(len(text.encode()))}")
        return 0
    return _serve(watch, invocation)


def _serve(watch: FleetWatch, invocation: Invocation) -> int:
    from orchestrator.cli.page_server import LOOPBACK, PageServer, page_token
    from orchestrator.cli.show.fleet_page import fleet_page
    from orchestrator.dispatch.queue_place import fleet_here

    folder = fleet_here(watch.run_root).state_dir
    server = PageServer(lambda: fleet_page(watch.look(), AGAIN_S), page_token(folder), invocation.port)
    with server:
        server.page()  # what cannot be shown is refused here
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _say(server.address)
        _say(f"from elsewhere: ssh -N -L {server.port}:{LOOPBACK}:{server.port} HOST, then the same address")
        if invocation.browser and not _opened(server.address):
            raise ConfigError(
                "--browser: no browser is to be found here; open the address where there is one"
            )
        over = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: over.set())
        over.wait()
        server.shutdown()
    return 0


def _say(text: str) -> None:
    Screen(soft_wrap=True, highlight=False).print(text)


def _opened(address: str) -> bool:
    import webbrowser  # every verb would take its time for it

    return webbrowser.open(address)
