"""The control channel between a launcher and its zygote: JSON messages that may carry descriptors.

Each message is four bytes of length (big-endian) and a JSON object; descriptors travel with the
length, so that they arrive with the message they belong to.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

_LENGTH = struct.Struct("!I")
_MAX_DESCRIPTORS = 4
_CREDENTIALS = struct.Struct("3i")  # process, user and group of the other side


def peer_uid(channel: socket.socket) -> int:
    """The user of the other side, as the kernel tells it: of a client's connection, of whoever listens."""
    credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


def send(channel: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message. Raises OSError when the other side is gone."""
    body = json.dumps(message).encode()
    header = _LENGTH.pack(len(body))
    if fds:
        sent = socket.send_fds(channel, [header], list(fds))
        channel.sendall(header[sent:])
    else:
        channel.sendall(header)
    channel.sendall(body)


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Receive one message with its descriptors; None at the end of the stream."""
    header, fds, _flags, _address = socket.recv_fds(channel, _LENGTH.size, _MAX_DESCRIPTORS)
    if not header:
        return None
    header += _exactly(channel, _LENGTH.size - len(header))
    body = _exactly(channel, _LENGTH.unpack(header)[0])
    return json.loads(body), fds


def _exactly(channel: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = channel.recv(length - len(parts))
        if not part:
            raise ConnectionResetError(
                f"control channel ended {length - len(parts)} bytes short of a message"
            )
        parts += part
    return bytes(parts)
