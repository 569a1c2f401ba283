"""What arrives from outside: addresses of streams, and requests to the server of `canthus stream`."""

import contextlib
import functools
import socket
import threading
import time
from pathlib import Path
from typing import Any

ADDRESSES = (
    "127.0.0.1", "9000", "localhost:9000", "[::1]:9000", "192.0.2.1:39539", "rtsp://user:secret@192.0.2.1:554/live",
    "http://192.0.2.1/clip.mp4?a=b@c", "srt://[::1]:9000?mode=caller",
)  # fmt: skip

FRAME_SECRET = b'"faces":['
"""Part of each message with faces. A client that may not read them must not get it."""


def make_addresses(_folder: Path) -> dict[str, bytes]:
    """Return addresses of streams and sources, one in each file."""
    return {f"{number}.address": text.encode() for number, text in enumerate(ADDRESSES)}


def read_address(path: Path) -> None:
    """Parse an address as that of a stream to send, and as that of a source."""
    from canthus.runtime.addresses import is_address, without_password
    from canthus.runtime.errors import InputError
    from canthus.runtime.streams.address import Address, UdpSender, is_loopback, parse_address

    text = path.read_text(encoding="utf-8", errors="replace")
    if is_address(text):
        assert "secret@" not in without_password(text).split("/", 3)[2]
        return
    try:
        address = parse_address(text, Address("127.0.0.1", 9000))
        assert 1 <= address.port <= 65535
        assert is_loopback(address.host) in (True, False)
        assert parse_address(str(address), address) == address
        if address.host.replace(".", "").isdecimal():  # other names are looked up in the network
            UdpSender(address).close()
    except InputError as error:
        raise InputError(f"{path.name}: {error}"[:500]) from error


def make_requests(_folder: Path) -> dict[str, bytes]:
    """Return what clients send: a request of the page, of a WebSocket, frames after it, and requests of other pages."""
    head = "Host: 127.0.0.1:8765\r\n"
    upgrade = (
        "GET / HTTP/1.1\r\n" + head + "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    )
    text = b"\x81\x85abcd" + bytes(one ^ two for one, two in zip(b"hello", b"abcda", strict=True))
    ping, close = b"\x89\x80abcd", b"\x88\x82abcd" + bytes([0x03 ^ ord("a"), 0xE8 ^ ord("b")])
    return {
        "page.request": f"GET / HTTP/1.1\r\n{head}\r\n".encode(),
        "other.request": f"GET /../../etc/passwd HTTP/1.1\r\n{head}\r\n".encode(),
        "upgrade.request": f"{upgrade}\r\n".encode(),
        "frames.request": f"{upgrade}\r\n".encode() + text + ping + b"\x01\x80abcd" + b"\x80\x80abcd" + close,
        "foreign.request": f"{upgrade}Origin: https://example.org\r\n\r\n".encode(),
        "rebound.request": upgrade.replace("127.0.0.1:8765", "example.org:8765").encode() + b"\r\n",
    }


@functools.cache
def _server() -> tuple[Any, int]:
    """Open a server for all inputs, and send frames to its clients."""
    from canthus.runtime.streams.address import Address
    from canthus.runtime.streams.websocket import WebSocketStream
    from support.heads import frame_of, measured_faces

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stream, faces = WebSocketStream(Address("127.0.0.1", port)), measured_faces(((0, 0, 0), (0, 0, 600)))

    def send() -> None:
        index = 0
        while True:
            index += 1
            stream.send(frame_of(index), faces)
            time.sleep(0.002)

    threading.Thread(target=send, daemon=True).start()
    return stream, port


def send_request(path: Path) -> None:
    """Send the bytes to the server, end the connection, and check that the server has no client and thread left."""
    stream, port = _server()
    content, answer = path.read_bytes(), b""
    threads = threading.active_count()
    cut_off = contextlib.suppress(BrokenPipeError, ConnectionResetError)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client, cut_off:
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
        while (part := client.recv(65536)) and len(answer) < 10_000_000:
            answer += part
    may_read = b"example.org" not in content
    assert may_read or FRAME_SECRET not in answer, "another page reads the faces"
    assert b"root:" not in answer
    until = time.monotonic() + 10
    while (stream._clients or threading.active_count() > threads) and time.monotonic() < until:
        time.sleep(0.001)
    assert not stream._clients
    assert threading.active_count() <= threads
