"""Faces over WebSocket, and the page that draws them."""

import contextlib
import errno
import json
import socket
import struct
import threading
import time
import urllib.error
import urllib.request

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from canthus.runtime.errors import InputError
from canthus.runtime.measures import MEASURE_COLUMNS
from canthus.runtime.schemes import WFLW, included_scheme
from canthus.runtime.streams import open_stream, websocket
from canthus.runtime.types import Faces
from support.heads import frame_of, measured_faces

AHEAD = ((0, 0, 0), (0, 0, 600))


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture
def stream(port):
    with open_stream("websocket", port) as stream:
        yield stream


def until_joined(stream, client):
    """Send empty frames until the client gets one."""
    for _ in range(500):
        stream.send(frame_of(), measured_faces())
        try:
            return client.recv(timeout=0.01)
        except TimeoutError:
            continue
    raise AssertionError("the client gets no frame")


def test_a_client_gets_the_faces(stream, port):
    faces = measured_faces(AHEAD)
    with connect(f"ws://127.0.0.1:{port}/") as client:
        until_joined(stream, client)
        stream.send(frame_of(7), faces)
        message = json.loads(client.recv(timeout=5))
        while message["frame"] != 7:
            message = json.loads(client.recv(timeout=5))
    assert (message["width"], message["height"]) == (640, 480)
    (face,) = message["faces"]
    assert face["id"] == 3
    assert face["points"][54] == pytest.approx(faces.points[0, 54].tolist(), abs=0.01)
    assert len(face["scores"]) == 98
    assert set(face["measures"]) == set(MEASURE_COLUMNS)


@pytest.fixture
def large(monkeypatch):
    """Make messages of 200 kB: sixty of them are more than the buffers of a socket take."""
    monkeypatch.setattr(websocket, "faces_as_json", lambda faces: ["x" * 200_000])


def test_a_client_that_does_not_read_loses_old_frames_and_delays_no_one(stream, port, large):
    faces, last = measured_faces(), 60
    with connect(f"ws://127.0.0.1:{port}/", max_queue=1) as slow, connect(f"ws://127.0.0.1:{port}/") as fast:
        until_joined(stream, slow)
        until_joined(stream, fast)
        numbers = [0]
        for number in range(1, last + 1):
            stream.send(frame_of(number), faces)  # would wait for the slow one
            while numbers[-1] < number:
                numbers.append(json.loads(fast.recv(timeout=5))["frame"])
        assert numbers[-1] == last
        assert max(channel.dropped for channel in stream._clients.values()) > 0
        late = [json.loads(slow.recv(timeout=5))["frame"]]
        while late[-1] < last:
            late.append(json.loads(slow.recv(timeout=5))["frame"])
        assert len(late) < last
        assert late == sorted(late)


def test_a_stream_ends_although_a_client_does_not_read(port, large):
    faces = measured_faces()
    with open_stream("websocket", port) as stream, connect(f"ws://127.0.0.1:{port}/", max_queue=1) as client:
        until_joined(stream, client)
        for number in range(1, 61):
            stream.send(frame_of(number), faces)
            threading.Event().wait(0.005)
        stream.close()
        with pytest.raises(ConnectionClosed):
            for _ in range(300):
                client.recv(timeout=5)


def get(port, path="/", **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read().decode(), dict(answer.headers)


def test_the_page_draws_the_lines_of_the_face(stream, port):
    page, headers = get(port)
    assert headers["Content-Type"].startswith("text/html")
    assert "message.lines || lines" in page.replace("newest", "message")
    with connect(f"ws://127.0.0.1:{port}/") as client:
        first = json.loads(until_joined(stream, client))
        assert first["lines"] == [list(line) for line in WFLW.lines]
        other = Faces.none(included_scheme("cofw"))
        stream.send(frame_of(8), other)
        messages = [json.loads(client.recv(timeout=5))]
        while messages[-1]["frame"] != 8:
            messages.append(json.loads(client.recv(timeout=5)))
        assert ["lines" in one for one in messages] == [False] * (len(messages) - 1) + [True]
        assert messages[-1]["lines"] == [list(line) for line in other.scheme.lines]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(port, "/other")


def test_pages_of_others_cannot_read_the_faces(stream, port):
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{port}/", origin="https://example.org")
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{port}/", origin="null")
    with pytest.raises(urllib.error.HTTPError, match="403"):  # a name of others that leads here
        get(port, Host=f"example.org:{port}")
    with connect(f"ws://127.0.0.1:{port}/", origin=f"http://127.0.0.1:{port}") as client:
        until_joined(stream, client)


@pytest.mark.parametrize(
    "host", ["", "[::1", "127.0.0.1@example.org", "127.0.0.1:1, example.org", "127.0.0.1.example.org", "2130706433"]
)
def test_a_host_that_is_not_this_machine_is_refused(stream, port, host):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(port, Host=host)


@pytest.mark.parametrize("header", ["Host: example.org", "Origin: https://example.org"])
def test_a_second_header_does_not_replace_the_first(stream, port, header):
    own = f"Host: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}"
    with socket.create_connection(("127.0.0.1", int(port)), timeout=5) as client:
        client.sendall(f"GET / HTTP/1.1\r\n{own}\r\n{header}\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 403")


def test_this_machine_has_several_names(stream, port):
    for host in (f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}", "192.0.2.1", socket.gethostname()):
        get(port, Host=host)


def test_clients_above_the_limit_get_nothing(stream, port, monkeypatch):
    monkeypatch.setattr(websocket, "MAX_CLIENTS", 1)
    with connect(f"ws://127.0.0.1:{port}/") as client:
        until_joined(stream, client)
        with pytest.raises(InvalidStatus, match="503"):
            connect(f"ws://127.0.0.1:{port}/")
        stream._serve_client(None)  # another one that was accepted at the same time
        assert len(stream._clients) == 1


def test_a_port_in_use_is_one_line(stream, port):
    with (
        pytest.raises(InputError, match=rf"127.0.0.1:{port}: no server can be opened there"),
        open_stream("websocket", port),
    ):
        pass


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "Cannot assign requested address"),
        ("no-such-host.invalid", "[^()]+"),
    ],
)
def test_an_address_of_another_machine_is_one_line_that_says_what_to_give(host, reason):
    with (
        pytest.raises(
            InputError, match=rf"^{host}:80: no server can be opened there \({reason}\); give one of this machine"
        ),
        open_stream("websocket", f"{host}:80"),
    ):
        pass


def test_numbers_that_are_not_finite_are_null():
    assert [websocket._number(value, 2) for value in (float("nan"), float("inf"), 1.239)] == [None, None, 1.24]


def served(port):
    """Whether the server answers with its page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return answer.status == 200


def is_closed(client):
    """Whether the server closes a connection soon."""
    client.settimeout(5)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_connections_beyond_a_number_are_closed_and_the_server_goes_on(monkeypatch, port):
    monkeypatch.setattr(websocket, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(websocket, "OPEN_SECONDS", 0.5)
    with open_stream("websocket", port), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", int(port)))) for _ in range(8)]
        assert all(map(is_closed, silent))  # the last ones at once, the others after the time for a request
        assert served(port)


def test_server_goes_on_after_handles_have_run_out(monkeypatch, port):
    accept, left = socket.socket.accept, [errno.EMFILE, errno.ENFILE]

    def failing(self):
        if left and isinstance(self, websocket._Listener):
            raise OSError(left.pop(), "no handles")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", failing)
    with open_stream("websocket", port):
        assert served(port)
    assert not left


def test_client_that_never_reads_is_cut_off(monkeypatch, port, large):
    monkeypatch.setattr(websocket, "_SEND_TIMEOUT", struct.pack("ll", 0, 200_000))
    with open_stream("websocket", port) as stream, connect(f"ws://127.0.0.1:{port}/", max_queue=1) as client:
        until_joined(stream, client)
        until = time.monotonic() + 10
        while stream.readers and time.monotonic() < until:
            stream.send(frame_of(), measured_faces())
            time.sleep(0.002)
        assert stream.readers == 0
        assert served(port)
