"""Streams over UDP: read by python-osc's server, and by a decoder made from OpenSeeFace's packet layout."""

import math
import queue
import socket
import struct
import threading
from dataclasses import replace

import numpy as np
import pytest
from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_bundle import OscBundle
from pythonosc.osc_server import ThreadingOSCUDPServer

from canthus.runtime.errors import InputError
from canthus.runtime.measures import BLENDSHAPES, MEASURE_COLUMNS
from canthus.runtime.measures.pose import rotations_from_angles
from canthus.runtime.streams import Address, StreamOptions, is_loopback, open_stream
from canthus.runtime.streams.address import as_seen_here, parse_address
from canthus.runtime.streams.kinds import leaves_machine
from canthus.runtime.streams.openseeface import PACKET
from canthus.runtime.streams.osc_template import FLOAT, MAX_PACKET, OscTemplate
from canthus.runtime.streams.vmc import VRM_NAMES, eye_quaternion, quaternion_from_rotation, vrm_shapes
from support.heads import SIZE, frame_of, measured_faces

AHEAD = ((0, 0, 0), (0, 0, 600))


class OscReader:
    """python-osc's server, in a thread. `until` returns all messages up to one with an address."""

    def __init__(self):
        self.messages = queue.Queue()
        dispatcher = Dispatcher()
        dispatcher.set_default_handler(lambda address, *values: self.messages.put((address, values)))
        self.server = ThreadingOSCUDPServer(("127.0.0.1", 0), dispatcher)
        self.port = str(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def take(self, count):
        return [self.messages.get(timeout=5) for _ in range(count)]


@pytest.fixture
def reader():
    reader = OscReader()
    yield reader
    reader.server.shutdown()
    reader.server.server_close()


def bones(messages):
    return {values[0]: values[1:] for address, values in messages if address == "/VMC/Ext/Bone/Pos"}


def shapes(messages):
    return {values[0]: values[1] for address, values in messages if address == "/VMC/Ext/Blend/Val"}


def test_vmc_has_the_pose_and_every_blend_shape(reader):
    with open_stream("vmc", reader.port) as stream:
        assert stream.name == f"VMC to 127.0.0.1:{reader.port}"
        stream.send(frame_of(), measured_faces(AHEAD))
        messages = reader.take(6 + len(BLENDSHAPES))
    addresses = [address for address, _ in messages]
    assert sorted(set(addresses)) == [
        "/VMC/Ext/Blend/Apply", "/VMC/Ext/Blend/Val", "/VMC/Ext/Bone/Pos", "/VMC/Ext/OK", "/VMC/Ext/T"
    ]  # fmt: skip
    assert ("/VMC/Ext/OK", (1, 3, 0, 1)) in messages
    assert set(shapes(messages)) == {name[0].upper() + name[1:] for name in BLENDSHAPES}
    assert all(0 <= value <= 1 for value in shapes(messages).values())
    np.testing.assert_allclose(bones(messages)["Head"], (0, 0, 0, 0, 0, 0, 1), atol=0.01)


@pytest.mark.parametrize(
    ("angles", "axis"),
    [((20, 0, 0), (0, 1, 0)), ((0, 20, 0), (-1, 0, 0)), ((0, 0, 20), (0, 0, 1))],
    ids=["turned to the person's right", "looking up", "tilted to the person's left"],
)
def test_the_head_turns_about_the_axes_of_unity(reader, angles, axis):
    """Unity's axes are to the right, up and forward, and its rotations are clockwise along the axis."""
    with open_stream("vmc", reader.port) as stream:
        stream.send(frame_of(), measured_faces((angles, (0, 0, 600))))
        turned = bones(reader.take(6 + len(BLENDSHAPES)))["Head"][3:]
    half = math.radians(10)
    np.testing.assert_allclose(turned, (*(math.sin(half) * np.array(axis)), math.cos(half)), atol=0.01)


@pytest.mark.parametrize("angles", [(10, 20, 30), (170, 10, -20), (10, 170, 20), (-20, 10, 170), (100, 100, -100)])
def test_a_quaternion_is_the_rotation_whichever_of_its_values_is_largest(angles):
    rotation = rotations_from_angles(np.array([angles], np.float64))[0]
    np.testing.assert_allclose(matrix(quaternion_from_rotation(rotation)), rotation, atol=1e-9)


def test_the_last_value_of_a_quaternion_is_not_negative():
    for angles in np.random.default_rng(0).uniform(-180, 180, (50, 3)):
        assert quaternion_from_rotation(rotations_from_angles(angles[None])[0])[3] >= -1e-9


def test_eyes_of_an_avatar_look_where_the_person_looks():
    """The forward axis of the avatar, turned by the quaternion, is the gaze in the axes of the avatar."""
    rotation = rotations_from_angles(np.array([[20.0, -10.0, 5.0]]))[0]
    gaze = np.array([0.3, -0.2, -math.sqrt(1 - 0.13)])
    turned = matrix(eye_quaternion(rotation, gaze)) @ (0, 0, 1)
    np.testing.assert_allclose(turned, -(rotation.T @ gaze), atol=1e-9)


@pytest.mark.parametrize(("jaw", "funnel", "expected"), [(0.8, 0.5, 0.3), (0.2, 0.5, 0.0)])
def test_an_open_mouth_of_vrm_is_the_jaw_without_the_funnel(jaw, funnel, expected):
    weights = np.zeros(len(BLENDSHAPES), np.float32)
    weights[[BLENDSHAPES.index("jawOpen"), BLENDSHAPES.index("mouthFunnel")]] = jaw, funnel
    found = dict(zip(VRM_NAMES, vrm_shapes(weights).tolist(), strict=True))
    assert (found["A"], found["O"]) == (pytest.approx(expected), pytest.approx(funnel))


def test_vmc_says_that_no_face_is_tracked(reader):
    with open_stream("vmc", reader.port) as stream:
        stream.send(frame_of(), measured_faces())
        messages = reader.take(2)
    assert ("/VMC/Ext/OK", (1, 3, 0, 0)) in messages


def test_receivers_learn_that_a_stream_has_ended(reader):
    with open_stream("vmc", reader.port) as vmc:
        vmc.send(frame_of(), measured_faces(AHEAD))
        reader.take(6 + len(BLENDSHAPES))
    assert ("/VMC/Ext/OK", (1, 3, 0, 0)) in reader.take(2)
    with open_stream("osc", reader.port) as osc:
        osc.send(frame_of(6), measured_faces())
        reader.take(2)
    assert dict(reader.take(2)) == {"/canthus/seconds": (pytest.approx(0.2),), "/canthus/faces": (0,)}


def test_vmc_with_the_names_of_vrm(reader):
    with open_stream("vmc", reader.port, StreamOptions(arkit=False)) as stream:
        stream.send(frame_of(), measured_faces(AHEAD))
        found = shapes(reader.take(6 + 6))
    assert set(found) == {"Blink_L", "Blink_R", "A", "I", "U", "O"}


def test_osc_has_every_measure_of_every_face(reader):
    faces = measured_faces(((10, 0, 0), (-150, 0, 700)), ((-20, 5, 0), (150, 0, 700)))
    with open_stream("osc", f"localhost:{reader.port}") as stream:
        stream.send(frame_of(6), faces)
        messages = dict(reader.take(2 + 2 * (1 + len(MEASURE_COLUMNS))))
    assert messages["/canthus/faces"] == (2,)
    assert messages["/canthus/seconds"] == (pytest.approx(0.2),)
    for place, face in enumerate((3, 4)):
        assert messages[f"/canthus/{place}/id"] == (face,)
        for name, value in faces.measures.as_dict(place).items():
            assert messages[f"/canthus/{place}/{name}"] == (pytest.approx(value, rel=1e-6),)


def test_a_template_gives_the_messages_of_python_osc():
    messages = [(f"/address/{number}", ["name", number, FLOAT, FLOAT]) for number in range(80)]
    template = OscTemplate(messages)
    numbers = np.arange(160) / 7
    packets = template.pack(numbers)
    assert len(packets) > 1
    assert max(map(len, packets)) <= MAX_PACKET
    read = [message for packet in packets for message in OscBundle(packet)]
    assert [message.address for message in read] == [address for address, _ in messages]
    assert [message.params[:2] for message in read] == [["name", number] for number in range(80)]
    np.testing.assert_allclose([message.params[2:] for message in read], numbers.reshape(80, 2), rtol=1e-6)


def test_numbers_that_are_not_finite_are_sent_as_0():
    (packet,) = OscTemplate([("/a", [FLOAT, FLOAT, FLOAT])]).pack([np.nan, np.inf, 2.5])
    (message,) = OscBundle(packet)
    assert message.params == [0.0, 0.0, 2.5]


class OpenSeeFaceReader:
    """Reads a packet in the order of OpenSee.cs: a double, an int, then floats, and one byte in between."""

    def __init__(self, packet, place=0):
        self.packet, self.place = packet, place
        self.time, self.id = self.next("<di")
        self.size = self.next("<2f")
        self.right_open, self.left_open = self.next("<2f")
        (self.got_3d,) = self.next("<B")
        (self.error,) = self.next("<f")
        self.quaternion = self.next("<4f")
        self.euler = self.next("<3f")
        self.translation = self.next("<3f")
        self.scores = np.array(self.next("<68f"))
        self.points = np.array(self.next("<136f")).reshape(68, 2)
        self.points_3d = np.array(self.next("<210f")).reshape(70, 3) * (1, -1, 1)
        self.features = self.next("<14f")

    def next(self, layout):
        values = struct.unpack_from(layout, self.packet, self.place)
        self.place += struct.calcsize(layout)
        return values

    def avatar_rotation(self):
        """Return the rotation (3, 3) that OpenSeeIKTarget.cs gives an avatar, relative to a neutral head."""
        x, y, z, w = self.quaternion
        neutral = 1 / math.sqrt(2)
        return matrix((-y, -x, z, w)) @ matrix((-neutral, -neutral, 0, 0)).T


def matrix(quaternion):
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@pytest.fixture
def receiver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        yield receiver


def send_openseeface(receiver, faces, frame=None):
    with open_stream("openseeface", str(receiver.getsockname()[1])) as stream:
        stream.send(frame or frame_of(), faces)
    return receiver.recv(65536)


def test_a_packet_of_openseeface_has_its_size_and_points(receiver):
    faces = measured_faces(AHEAD, ((0, 0, 0), (150, 0, 700)))
    packet = send_openseeface(receiver, faces)
    assert len(packet) == 2 * 1785 == 2 * PACKET.itemsize
    first = OpenSeeFaceReader(packet)
    second = OpenSeeFaceReader(packet, first.place)
    assert second.place == len(packet)
    assert (first.id, second.id) == (3, 4)
    assert first.size == SIZE
    assert first.got_3d == 1
    assert first.error < 1
    assert 0 <= first.right_open <= 1
    np.testing.assert_allclose(first.points[0], faces.points[0, 0])  # the jaw on the left of the image
    np.testing.assert_allclose(first.points[36], faces.points[0, 60])  # an outer corner of an eye
    np.testing.assert_allclose(first.points[58], faces.points[0, 88])  # an inner corner of the mouth
    np.testing.assert_allclose(first.points[66:], faces.points[0, 96:])  # the pupils
    np.testing.assert_allclose(first.scores, 0.9, rtol=1e-6)
    assert np.abs(first.features).max() <= 1


def test_the_points_of_openseeface_lie_on_its_head(receiver):
    """Left of the image, up, towards the viewer, from the tip of the nose; compared with its own model of the head."""
    points = OpenSeeFaceReader(send_openseeface(receiver, measured_faces(AHEAD))).points_3d * (1, 1, -1)
    np.testing.assert_allclose(points[30], 0, atol=0.02)
    np.testing.assert_allclose(points[66], (0.26, 0.28, -0.22), atol=0.12)  # pupil on the left of the image
    np.testing.assert_allclose(points[67], (-0.26, 0.28, -0.22), atol=0.12)
    np.testing.assert_allclose(points[8], (0.0, -0.55, -0.21), atol=0.12)  # the chin
    assert (points[68:, 2] < points[66:68, 2] - 0.03).all()  # the centers of the eyeballs are behind the pupils


@pytest.mark.parametrize("angles", [(0, 0, 0), (25, 0, 0), (0, 20, 0), (0, 0, 15), (-30, 10, -20)])
def test_an_avatar_of_openseeface_turns_as_the_head(receiver, angles):
    packet = send_openseeface(receiver, measured_faces((angles, (0, 0, 600))))
    expected = rotations_from_angles(np.array([angles], np.float64))[0]
    np.testing.assert_allclose(OpenSeeFaceReader(packet).avatar_rotation(), expected, atol=0.02)


def test_a_frontal_head_has_the_angles_of_openseeface(receiver):
    x, y, z = OpenSeeFaceReader(send_openseeface(receiver, measured_faces(((1, 1, 1), (0, 0, 600))))).euler
    assert abs(abs(x) - 180) < 3
    assert abs(y) < 3
    assert abs(z - 90) < 3


def test_an_avatar_of_openseeface_moves_as_the_head(receiver):
    """OpenSeeIKTarget.cs takes the second, first and third number as x, y and z of the avatar, which faces us."""

    def place(x, y, z):
        moved = OpenSeeFaceReader(send_openseeface(receiver, measured_faces(((0, 0, 0), (x, y, z))))).translation
        return np.array([moved[1], moved[0], moved[2]])

    still = place(0, 0, 600)
    assert place(50, 0, 600)[0] - still[0] == pytest.approx(-50 / 122, abs=0.03)  # to the avatar's left
    assert place(0, 50, 600)[1] - still[1] == pytest.approx(-50 / 122, abs=0.03)  # down
    assert place(0, 0, 500)[2] - still[2] == pytest.approx(100 / 122, abs=0.03)  # forward


def test_pixels_of_openseeface_that_are_not_square_are_stretched(receiver):
    faces, frame = measured_faces(AHEAD), frame_of(size=(320, 480))
    narrow = replace(faces, points=faces.points * np.array([0.5, 1.0], np.float32))
    packet = send_openseeface(receiver, narrow, replace(frame, pixel_aspect=2.0))
    assert OpenSeeFaceReader(packet).error < 1


def test_openseeface_sends_nothing_without_a_face_and_36_faces_at_most(receiver):
    crowd = measured_faces(*[((0, 0, 0), (10.0 * number, 0, 900)) for number in range(40)])
    with open_stream("openseeface", str(receiver.getsockname()[1])) as stream:
        stream.send(frame_of(), measured_faces())
        stream.send(frame_of(), crowd)
    assert len(receiver.recv(65536)) == 36 * 1785


def test_a_stream_without_a_reader_is_no_error():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with open_stream("vmc", port) as stream:
        for number in range(5):
            stream.send(frame_of(number), measured_faces(AHEAD))


DEFAULT = Address("127.0.0.1", 39539)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", DEFAULT),
        ("9000", Address("127.0.0.1", 9000)),
        (":9000", Address("127.0.0.1", 9000)),
        ("192.168.1.20", Address("192.168.1.20", 39539)),
        ("studio.local:9000", Address("studio.local", 9000)),
        ("[::1]:9000", Address("::1", 9000)),
        ("[::1]", Address("::1", 39539)),
    ],
)
def test_an_address_may_lack_its_host_or_port(text, address):
    assert parse_address(text, DEFAULT) == address


@pytest.mark.parametrize("text", ["host:", "host:port", "host:70000", "0", "http://host:80", "a b", "host:-1", "[::1"])
def test_other_texts_are_no_address(text):
    if text == "host:":
        assert parse_address(text, DEFAULT) == Address("host", 39539)
        return
    with pytest.raises(InputError, match="is no address"):
        parse_address(text, DEFAULT)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 300, "a..b"], ids=["unknown", "too long", "no name"])
def test_a_host_that_does_not_exist_is_one_line(host):
    with pytest.raises(InputError, match=rf"^{host}:39539: cannot be reached \("), open_stream("vmc", host):
        pass


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_datagrams_cannot_be_sent_to_every_address(host):
    with pytest.raises(InputError, match="is no machine to send to"), open_stream("vmc", host):
        pass


def test_a_server_on_every_address_is_reached_here_at_the_loopback_one():
    assert as_seen_here(Address("0.0.0.0", 80)) == Address("127.0.0.1", 80)
    assert str(as_seen_here(Address("::", 80))) == "[::1]:80"
    assert as_seen_here(DEFAULT) == DEFAULT


def test_which_addresses_stay_on_this_machine():
    assert all(map(is_loopback, ("127.0.0.1", "127.3.2.1", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.1.20", "studio.local", "::")))
    assert leaves_machine("vmc", "192.168.1.20")
    assert not leaves_machine("vmc", "9000")
    assert not leaves_machine("virtual-camera", "/dev/video2")


def test_an_unknown_kind_is_an_error():
    with pytest.raises(InputError, match="midi: is no stream"), open_stream("midi"):
        pass
