"""Stream addresses: frames of a local HTTP server, and one line within a bounded time if there is no answer."""

import functools
import http.server
import itertools
import socket
import threading
import time

import pytest

from canthus.runtime import network_stream
from canthus.runtime.addresses import is_address, without_password
from canthus.runtime.errors import InputError
from canthus.runtime.network_stream import NetworkStream
from canthus.runtime.pipeline import follow
from canthus.runtime.sample import CLIP
from support.videos import write_video


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Start an HTTP server for a folder, and return its address."""
    servers = []

    def start(folder):
        handler = functools.partial(SilentHandler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("rtsp://host/path", True),
        ("HTTP://host:8080/clip.mp4", True),
        ("udp://@239.0.0.1:1234", True),
        ("clip.mp4", False),
        ("12:30.mp4", False),
        ("file:///clip.mp4", False),
        (0, False),
    ],
)
def test_addresses_are_told_apart_from_files(source, expected):
    assert is_address(source) == expected


def test_password_is_removed_for_messages():
    assert without_password("rtsp://user:p@ss@host:554/live?a=b@c") == "rtsp://host:554/live?a=b@c"
    assert without_password("udp://@239.0.0.1:1234") == "udp://239.0.0.1:1234"


def test_address_with_an_unknown_scheme_is_refused():
    with pytest.raises(InputError, match=r"^gopher://host: not an address of a stream \(expected one of http, "):
        NetworkStream("gopher://host")


def test_frames_of_a_file_on_a_server_come_at_its_frame_rate_until_its_end(tmp_path, serve):
    write_video(tmp_path / "v.mp4", [index / 20 for index in range(20)])
    before, began = threading.active_count(), time.monotonic()
    with NetworkStream(serve(tmp_path) + "/v.mp4") as source:
        seconds = [frame.seconds for frame in source]
    assert seconds[0] == 0
    assert seconds[-1] == pytest.approx(0.95)
    assert len(seconds) > 10
    assert 0.8 < time.monotonic() - began < 5
    assert threading.active_count() <= before + 1  # the server's


def test_slow_consumer_gets_the_newest_frame(tmp_path, serve):
    write_video(tmp_path / "v.mp4", [index / 20 for index in range(30)])
    indices = []
    with NetworkStream(serve(tmp_path) + "/v.mp4") as source:
        for frame in source:
            indices.append(frame.index)
            time.sleep(0.25)
    assert max(after - before for before, after in itertools.pairwise(indices)) >= 3


@pytest.mark.usefixtures("fake_networks")
def test_follow_reads_an_address(serve):
    found = follow(f"{serve(CLIP.parent)}/{CLIP.name}")
    frame, _ = next(found)
    assert frame.image.shape == (720, 1280, 3)
    began = time.monotonic()
    found.close()
    assert time.monotonic() - began < 2


def test_missing_file_and_closed_port_are_one_line(tmp_path, serve):
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:\d+/none\.mp4: the stream cannot be read \(.*\)$"):
        NetworkStream(serve(tmp_path) + "/none.mp4")
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:9/v\.mp4: .*Connection refused"):
        NetworkStream("http://user:secret@127.0.0.1:9/v.mp4")


@pytest.mark.parametrize("scheme", ["http", "rtsp", "udp"])
def test_host_that_does_not_answer_is_an_error_within_the_timeout(monkeypatch, scheme):
    monkeypatch.setattr(network_stream, "OPEN_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts, but never answers
        port = listening.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(InputError, match=rf"{scheme}://127\.0\.0\.1:\d+: no data for 0 s"):
            NetworkStream(f"{scheme}://127.0.0.1:{port}")
    assert time.monotonic() - began < 3


def test_page_that_is_no_video_is_refused(tmp_path, serve):
    (tmp_path / "page.html").write_text("<html>" * 1000)
    with pytest.raises(InputError, match=r"page\.html: the stream cannot be read"):
        NetworkStream(serve(tmp_path) + "/page.html")


def test_live_stream_that_falls_silent_is_an_error_after_its_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(network_stream, "READ_TIMEOUT", 0.5)
    data = write_video(tmp_path / "v.ts", [index / 30 for index in range(60)]).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connections = []

        def serve_once():
            connections.append(listening.accept()[0])
            connections[0].sendall(data)  # and then nothing, with the connection open

        threading.Thread(target=serve_once, daemon=True).start()
        frames = 0
        with (
            NetworkStream(f"tcp://127.0.0.1:{listening.getsockname()[1]}") as source,
            pytest.raises(InputError, match=r"^tcp://127\.0\.0\.1:\d+: no data for 0 s; check the address"),
        ):
            for frame in source:
                frames += 1
                assert frame.seconds >= 0
        connections[0].close()
    assert frames >= 1
