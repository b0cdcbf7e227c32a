"""Reads one launcher's command line: ``sys.argv`` is its name and its words, a line of JSON is the answer."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import NoReturn

from orchestrator.config.command_line.launch import Launch
from orchestrator.errors import ConfigError


def main() -> None:
    """Entry of the child. What the libraries print goes to standard error."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, *words = sys.argv[1:]
    sys.argv = [name, *words]
    argparse.ArgumentParser.error = refuse  # type: ignore[method-assign, assignment]
    try:
        body = asdict(_reader(name)(words))
    except ConfigError as error:
        body = {"refused": str(error)}
    except SystemExit:
        body = {"refused": f"{name}: prints something and trains nothing; run it by itself"}
    except ImportError as error:
        body = {"refused": f"{name}: {error}; install it where orchestrator is, or name the script by python"}
    except Exception as error:  # noqa: BLE001 - a launcher says by any exception what it does not like
        body = {"refused": f"{name}: {error}"}
    with answer:
        json.dump(body, answer)


def _reader(name: str) -> Callable[[list[str]], Launch]:
    match name:
        case "deepspeed":
            from orchestrator.rank.launchers.deepspeed import read
        case "accelerate launch":
            from orchestrator.rank.launchers.accelerate import read
        case "torch.distributed.launch":
            from orchestrator.rank.launchers.torchrun import read_legacy as read
        case _:
            from orchestrator.rank.launchers.torchrun import read
    return read


def refuse(_parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """In place of a parser's ``error``, which prints its usage and exits."""
    raise ConfigError(f"{sys.argv[0]}: {message}; see {sys.argv[0]} --help")
