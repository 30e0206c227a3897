"""Messages between a run and the process that talks to Ray: JSON, one a line, over a socket. Nothing is unpickled."""

from __future__ import annotations

import json
import selectors
import socket
from typing import Any

Message = dict[str, Any]


class Channel:
    """One end of the socket. EOFError is raised where the other end is gone."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._buffer = b""
        self._lines: list[bytes] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(end, selectors.EVENT_READ)

    def send(self, message: Message) -> None:
        """Send a message."""
        try:
            self.end.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise EOFError("the other process is gone") from error

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message; None if there was none in time."""
        while not self._lines:
            if not self._selector.select(timeout_s):
                return None
            try:
                content = self.end.recv(1 << 20)
            except OSError as error:
                raise EOFError("the other process is gone") from error
            if not content:
                raise EOFError("the other process is gone")
            *lines, self._buffer = (self._buffer + content).split(b"\n")
            self._lines += lines
        message: Message = json.loads(self._lines.pop(0))
        return message

    def close(self) -> None:
        """Give back the socket."""
        self._selector.close()
        self.end.close()
