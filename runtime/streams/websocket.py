"""Faces as JSON over WebSocket, and a page that draws them.

The server answers browsers only for pages that come from itself: any page on the web may try to connect to this
machine, and would read the faces in front of the camera.
"""

import contextlib
import errno
import ipaddress
import json
import logging
import re
import socket
import struct
import sys
import threading
import time
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from canthus.runtime.channel import Channel
from canthus.runtime.errors import InputError
from canthus.runtime.schemes import Scheme
from canthus.runtime.streams.address import LOOPBACK, Address, as_seen_here, reason_of
from canthus.runtime.types import Faces, Frame

PAGE = Path(__file__).with_name("page.html")

JOIN_SECONDS = 1.0
"""How long a client may take to end its connection."""

OPEN_SECONDS = 3.0
"""How long a client may take to send its request."""

MAX_CLIENTS = 32
"""More are refused: each has a thread."""

MAX_CONNECTIONS = 2 * MAX_CLIENTS
"""More are closed at once, also those that have sent no request yet: each takes three handles."""

SEND_SECONDS = 10.0
"""A client that reads nothing for so long is cut off: it would keep the place of another one."""

_SEND_TIMEOUT = (
    struct.pack("L", round(1000 * SEND_SECONDS)) if sys.platform == "win32" else struct.pack("ll", int(SEND_SECONDS), 0)
)
"""SEND_SECONDS as the system expects it."""

POLL_SECONDS = 0.2
"""How often a server that refuses connections looks whether it was closed."""

_NO_HANDLES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)
"""Errors of accepting a connection that pass. The server of websockets would end."""

_ANY_ORIGIN = re.compile(".*")

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:/@\[\],\s]+)(:[0-9]+)?")
"""The header Host: a name or an IP address, and a port."""


class _Message:
    """A frame as text. It is made once, in the thread of the first client that sends it."""

    def __init__(self, frame: Frame, faces: Faces) -> None:
        height, width = frame.image.shape[:2]
        self._head = {"frame": frame.index, "seconds": round(frame.seconds, 6), "width": width, "height": height}
        self._faces, self.scheme = faces, faces.scheme
        self._lock = threading.Lock()

    @property
    def text(self) -> str:
        with self._lock:
            return self._text

    @property
    def text_with_lines(self) -> str:
        """The text for a client that does not know the lines of the face yet."""
        return f'{{"lines":{json.dumps(self.scheme.lines)},{self.text[1:]}'

    @cached_property
    def _text(self) -> str:
        return json.dumps({**self._head, "faces": faces_as_json(self._faces)}, separators=(",", ":"))


def faces_as_json(faces: Faces) -> list[dict[str, object]]:
    """Return faces as JSON has them: id, score, points [[x, y], ...] in pixels, scores, measures by name."""
    found: list[dict[str, object]] = []
    for index, (points, scores) in enumerate(zip(faces.points, faces.scores, strict=True)):
        face: dict[str, object] = {
            "id": int(faces.ids[index]),
            "score": _number(scores.mean(), 3),
            "points": [[_number(x, 2), _number(y, 2)] for x, y in points.tolist()],
            "scores": [_number(score, 3) for score in scores.tolist()],
        }
        if faces.measures is not None:
            face["measures"] = {name: _number(value, 4) for name, value in faces.measures.as_dict(index).items()}
        found.append(face)
    return found


def _number(value: float, digits: int) -> float | None:
    """Return a rounded number; JSON has no NaN and no infinity."""
    value = float(value)
    return round(value, digits) if abs(value) < float("inf") else None


class _Listener(socket.socket):
    """A listening socket that limits the number of open connections, and stays open if handles run out."""

    _connections: set[socket.socket]

    def accept(self) -> tuple[socket.socket, Any]:
        while True:
            try:
                connection, address = super().accept()
            except TimeoutError:
                continue
            except OSError as error:
                if error.errno not in _NO_HANDLES:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            self._connections = {one for one in self._connections if one.fileno() >= 0}
            if len(self._connections) < MAX_CONNECTIONS:
                self._connections.add(connection)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
                return connection, address
            connection.close()


def _listen(address: Address) -> _Listener:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = _Listener(fileno=socket.create_server(address, family=family).detach())
    listener._connections = set()
    listener.settimeout(POLL_SECONDS)
    return listener


class WebSocketStream:
    """Serves the frames at ws://ADDRESS/ and the page at http://ADDRESS/. Clients get a message for each frame.

    A client that reads slowly gets the newest frame; those in between are dropped.

    Raises InputError if the address cannot be used.
    """

    problem = ""

    def __init__(self, address: Address) -> None:
        self._clients: dict[ServerConnection, Channel[_Message]] = {}
        self._changed = threading.Condition()  # guards the clients, and is notified when one has left
        self._closing = False
        self._page = PAGE.read_bytes()
        logger = logging.getLogger("canthus.websocket")
        logger.setLevel(logging.CRITICAL)  # browsers that leave early are no news
        try:
            self._server = serve(
                self._serve_client,
                sock=_listen(address),
                process_request=self._answer,
                origins=[None, _ANY_ORIGIN],  # `_answer` checks it
                compression=None,
                open_timeout=OPEN_SECONDS,
                close_timeout=JOIN_SECONDS,
                max_size=2**10,
                logger=logger,
            )
        except (OSError, UnicodeError) as error:
            used = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
            advice = "choose another port" if used else f"give one of this machine, such as {LOOPBACK}"
            raise InputError(f"{address}: no server can be opened there ({reason_of(error)}); {advice}") from error
        self.name = f"WebSocket at ws://{address}/, page at http://{as_seen_here(address)}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="websocket", daemon=True)
        self._thread.start()

    @property
    def readers(self) -> int:
        """The number of clients."""
        return len(self._clients)

    def send(self, frame: Frame, faces: Faces) -> None:
        """Offer a frame to all clients."""
        with self._changed:
            if self._clients:
                message = _Message(frame, faces)
                for channel in self._clients.values():
                    channel.put(message)

    def close(self) -> None:
        """Say goodbye to the clients and close the server. A client that does not read is cut off."""
        with self._changed:
            self._closing = True
            for channel in self._clients.values():
                channel.close()
            self._changed.wait_for(lambda: not self._clients, JOIN_SECONDS)
            for connection in self._clients:
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._thread.join(JOIN_SECONDS)

    def _serve_client(self, connection: ServerConnection) -> None:
        """Send frames to a client until it leaves. Runs in a thread of the server."""
        channel: Channel[_Message] = Channel(1, newest_wins=True)
        with self._changed:
            if self._closing or len(self._clients) >= MAX_CLIENTS:  # several may have been accepted at once
                return
            self._clients[connection] = channel
        known: Scheme | None = None
        try:
            for message in channel:
                connection.send(message.text if message.scheme == known else message.text_with_lines)
                known = message.scheme
        except (ConnectionClosed, OSError):
            pass
        finally:
            with self._changed:
                del self._clients[connection]
                self._changed.notify_all()

    def _answer(self, _connection: ServerConnection, request: Request) -> Response | None:
        """Return the page, an error, or None to accept a WebSocket."""
        hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
        host = hosts[0] if len(hosts) == 1 else ""
        if not _is_own_name(host) or any(origin.partition("://")[2] != host for origin in origins):
            return _response(HTTPStatus.FORBIDDEN, b"only pages of this server may connect\n")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            busy = len(self._clients) >= MAX_CLIENTS
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, b"too many clients\n") if busy else None
        if request.path != "/":
            return _response(HTTPStatus.NOT_FOUND, b"no such page\n")
        return _response(HTTPStatus.OK, self._page, "text/html; charset=utf-8")


def _is_own_name(host: str) -> bool:
    """Whether the header Host has an IP address or a name of this machine.

    The page of an attacker may have a name that leads to this machine (DNS rebinding), but not these.
    """
    found = _HOST.fullmatch(host.lower())
    name = found[1].strip("[]") if found else ""
    own = socket.gethostname().lower()
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return name in ("localhost", own, f"{own}.local")


def _response(status: HTTPStatus, body: bytes, kind: str = "text/plain") -> Response:
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Connection": "close",
            "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
            "connect-src 'self' ws:",
            "X-Content-Type-Options": "nosniff",
        }
    )
    return Response(status.value, status.phrase, headers, body)
