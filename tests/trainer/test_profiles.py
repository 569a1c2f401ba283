"""Profile faces from frontal ones: properties on a synthetic head, the command, and photographs."""

import itertools
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from canthus.runtime import wflw
from canthus.runtime.cli import main
from canthus.runtime.downloads import find_downloads
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.geometry import crop, invert, roi_from_points, to_frame, transform
from canthus.runtime.types import Roi
from canthus.trainer.commands.data import command
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.faces.labelled import LabelledFace, is_held_out, yaw_estimate
from canthus.trainer.faces.wflw_lists import format_list_line
from canthus.trainer.labels import face_mesh, profiles
from canthus.trainer.labels.head_surface import CHIN_POINT, SIDE, Pose, UprightFace, cut_upright, reconstruct
from canthus.trainer.labels.labelling import IMAGE_SCALE, PseudoLabel, ShardWriter
from canthus.trainer.labels.profile_synthesis import RENDERED_SIDE, render, rotate_points
from canthus.trainer.labels.rendering import fill_unknown, rasterise
from canthus.trainer.packs.pack import open_pack, write_pack
from support.data_sets import write_cofw
from support.shape import SHAPE
from support.shards import FROM_68, write_kinds

NEAR = 1.5  # pixels of the square: about a third of the distance of two vertices
FACE = 180  # pixels

EVEN = (SHAPE + SHAPE[wflw.MIRROR] * [-1, 1] + [1, 0]) / 2
"""A simple face that is its own mirror image."""

SIDES = {127: (-0.95, -0.2), 356: (0.95, -0.2), 234: (-0.98, 0.0), 454: (0.98, 0.0)}
MIDDLES = {168: (0.0, -0.3), 5: (0.0, -0.6)}


def synthetic_mesh(points: np.ndarray, shape: tuple[int, int]) -> face_mesh.MeshedFace:
    """Return a head around points (98, 2): half an ellipsoid as face, and a body below."""
    size = np.ptp(points, axis=0).max()
    middle, half = (points.min(0) + points.max(0)) / 2, size * np.array([0.5, 0.52])
    flat = np.zeros((468, 2))
    marks = {ours: (points[theirs] - middle) / half for ours, theirs in face_mesh.SHARED_POINTS} | SIDES | MIDDLES
    marks[face_mesh.TOP] = -marks[face_mesh.CHIN]
    others = [place for place in range(468) if place not in marks]
    number = np.arange(len(others) // 2)
    wide, turned = 0.97 * np.sqrt((number + 0.5) / len(number)), np.pi * (3 - np.sqrt(5)) * number
    right = np.stack([np.abs(wide * np.cos(turned)) + 1e-3, wide * np.sin(turned)], 1)
    flat[others] = np.concatenate([right, right * [-1, 1]])
    for place, mark in marks.items():
        flat[place] = mark
    depth = -0.45 * size * np.sqrt(1 - (flat**2).sum(1))
    depth[face_mesh.TOP] -= math.tan(face_mesh.TILT) * 2 * half[1] * marks[face_mesh.CHIN][1]  # the face has no pitch
    person = np.zeros(shape, np.float32)
    x, y = (int(edge) for edge in middle)
    cv2.ellipse(person, (x, y), (round(0.62 * size), round(0.75 * size)), 0, 0, 360, 1.0, -1)
    person[y + round(0.7 * size) :, x - round(0.9 * size) : x + round(0.9 * size)] = 1
    return face_mesh.MeshedFace(np.column_stack([middle + flat * half, depth]), person, 1.0)


def synthetic_face(marks: tuple[int, ...] = ()) -> UprightFace:
    """Return the simple face on smooth colors, with red discs on the points with these numbers."""
    ground = np.random.default_rng(1).integers(40, 200, (6, 6, 3)).astype(np.uint8)
    ground[..., 0] //= 4
    image = cv2.resize(ground, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    points = ((SIDE - 1 - FACE) / 2 + EVEN * FACE).astype(np.float32)
    for mark in marks:
        x, y = points[mark]
        cv2.circle(image, (round(x * 16), round(y * 16)), 4 * 16, (255, 0, 0), -1, cv2.LINE_AA, 4)
    return UprightFace(image, points, np.ones((SIDE, SIDE), np.bool_))


def synthetic_head(marks: tuple[int, ...] = ()):
    face = synthetic_face(marks)
    return reconstruct(face, synthetic_mesh(face.points, (SIDE, SIDE)))


def distance_to_chain(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Return the distances of points (N, 2) from a chain of points (M, 2)."""
    dense = np.concatenate([np.linspace(a, b, 20) for a, b in itertools.pairwise(line)])
    return np.linalg.norm(points[:, None] - dense, axis=-1).min(1)


def test_a_pose_without_rotation_gives_the_face_back():
    made = synthetic_face()
    face = synthetic_head()
    points = rotate_points(face, Pose())
    inner = slice(33, None)
    np.testing.assert_allclose(points[inner], made.points[inner], atol=0.1)
    assert distance_to_chain(points[:33], made.points[:33]).max() < NEAR
    image, drawn_points = render(face, Pose())
    region = roi_from_points(points)
    roomy = Roi(region.x, region.y, region.side * IMAGE_SCALE)
    wanted = crop(made.image, roomy, RENDERED_SIDE)
    np.testing.assert_allclose(drawn_points, transform(invert(to_frame(roomy, RENDERED_SIDE)), points), atol=0.01)
    core = cv2.erode(crop(np.dstack([face.texture[..., 3]] * 3), roomy, RENDERED_SIDE)[..., 0], np.ones((25, 25))) > 250
    assert core.mean() > 0.2
    assert np.abs(image.astype(int) - wanted)[core].mean() < 2


def test_a_disc_on_the_face_is_rendered_at_its_rotated_point():
    for degrees, mark in ((-50, 54), (-50, 82), (40, 76), (60, 54), (35, 90), (-20, 64)):
        pose = Pose(math.radians(degrees), math.radians(8), math.radians(-6))
        image, points = render(synthetic_head((mark,)), pose)
        red = image.astype(int)
        rows, columns = np.nonzero((red[..., 0] > 140) & (red[..., 1] < 90) & (red[..., 2] < 90))
        assert len(rows) > 10, (degrees, mark)
        found = np.array([columns.mean(), rows.mean()])
        assert np.linalg.norm(found - points[mark]) < 2 * NEAR, (degrees, mark)


def test_a_face_rotates_as_its_pose_says():
    face = synthetic_head()
    straight, right, down, rolled = (
        rotate_points(face, pose) for pose in (Pose(), Pose(yaw=0.6), Pose(pitch=0.4), Pose(roll=0.3))
    )
    eyes = list(wflw.OUTER_CANTHI)
    assert yaw_estimate(right[None])[0] > 0.2
    assert abs(yaw_estimate(straight[None])[0]) < 0.02
    shrunk = np.ptp(right[eyes, 0]) / np.ptp(straight[eyes, 0])
    assert shrunk == pytest.approx(math.cos(0.6), abs=0.08)
    assert down[54, 1] - down[eyes, 1].mean() > straight[54, 1] - straight[eyes, 1].mean() + 5
    across = rolled[eyes[1]] - rolled[eyes[0]]
    assert math.atan2(across[1], across[0]) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("degrees", [20, 50, 80])
def test_the_opposite_yaw_mirrors_the_points(degrees):
    face = synthetic_head()
    yaw = math.radians(degrees)
    one, other = rotate_points(face, Pose(yaw, 0.1, 0.2)), rotate_points(face, Pose(-yaw, 0.1, -0.2))
    back = other[wflw.MIRROR] * [-1, 1] + [SIDE - 1, 0]
    assert np.linalg.norm(one - back, axis=1).max() < 2 * NEAR


@pytest.mark.parametrize("degrees", [40, 60, 80])
def test_the_far_contour_is_the_visible_edge_and_no_point_is_beyond_it(degrees):
    """On an ellipsoid, which has no nose, the edge is the outermost place of the face at each height."""
    face = synthetic_head()
    pose = Pose(math.radians(degrees))
    points = rotate_points(face, pose)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [np.round(face.points[:33]).astype(np.int32)], 1)
    flat = np.argwhere(mask)[:, ::-1].astype(np.float64)
    surface = face.surface.rotate(np.column_stack([flat, face.surface.depth(flat)]), pose.rotation)[:, :2]

    def short_of_edge(x, y):
        return surface[np.abs(surface[:, 1] - y) < 2, 0].max() - x

    low, high = face.points[:33, 1].min() + 10, face.points[:33, 1].max() - 10
    far = [short_of_edge(x, y) for x, y in points[CHIN_POINT + 5 : 33].tolist() if low < y < high]
    assert len(far) > 8
    assert min(far) > -NEAR
    assert max(far) < 4 * NEAR  # close to the chin the edge runs flat
    inner = [short_of_edge(x, y) for x, y in points[33:].tolist() if low < y < high]
    assert len(inner) > 20
    assert min(inner) > -NEAR


def test_both_halves_of_the_contour_have_points_at_equal_distances():
    points = rotate_points(synthetic_head(), Pose(math.radians(45), 0.1))
    steps = np.linalg.norm(np.diff(points[:33], axis=0), axis=1)
    for half in (steps[:CHIN_POINT], steps[CHIN_POINT:]):
        np.testing.assert_allclose(half, half.mean(), rtol=0.05)


def test_the_far_eye_of_a_profile_is_narrow_and_behind_the_near_one():
    face = synthetic_head()
    points = rotate_points(face, Pose(math.radians(80)))
    near, far = points[list(wflw.LEFT_EYE)], points[list(wflw.RIGHT_EYE)]
    assert far[:, 0].mean() > near[:, 0].mean()
    assert np.ptp(far[:, 0]) < np.ptp(face.points[list(wflw.RIGHT_EYE), 0])


def test_rasterise_shows_the_nearest_triangle_with_barycentric_weights():
    rng = np.random.default_rng(0)
    corners = rng.uniform(-5, 45, (30, 3, 2))
    one, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    turned = one[:, 0] * other[:, 1] < one[:, 1] * other[:, 0]
    corners[turned] = corners[turned][:, ::-1]
    heights = rng.permutation(30).astype(float)
    vertices = np.dstack([corners, np.repeat(heights[:, None], 3, 1)]).reshape(-1, 3)
    triangles = np.arange(90).reshape(30, 3)
    index, two, three = rasterise(vertices, triangles, 40)
    rows, columns = np.nonzero(index >= 0)
    which = corners[index[rows, columns]]
    weights = np.stack([1 - two - three, two, three], -1)[rows, columns]
    np.testing.assert_allclose((which * weights[..., None]).sum(1), np.stack([columns, rows], 1), atol=1e-2)
    for y, x in ((20, 20), (5, 31), (33, 12)):
        inside = [
            number
            for number in range(30)
            if cv2.pointPolygonTest(corners[number].astype(np.float32), (float(x), float(y)), True) > 0.01
        ]
        assert index[y, x] == (min(inside, key=heights.__getitem__) if inside else -1)
    backward, _, _ = rasterise(vertices, triangles[:, ::-1], 40)
    assert (backward == -1).all()


def test_fill_unknown_keeps_known_pixels_and_continues_them():
    image = synthetic_face().image
    known = np.zeros((SIDE, SIDE), np.bool_)
    known[:, 100:300] = True
    filled = fill_unknown(image, known)
    np.testing.assert_array_equal(filled[known], image[known])
    assert np.abs(filled[200, 310:320].astype(int) - image[200, 299]).max() < 40
    plain = np.full_like(image, 77)
    assert np.abs(fill_unknown(plain * known[..., None], known).astype(int) - 77).max() <= 1


def test_cut_upright_levels_the_eyes_and_marks_pixels_outside_the_photo():
    made = synthetic_face()
    roll = math.radians(25)
    turned = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), -math.degrees(roll), 1.0)
    photo, points = cv2.warpAffine(made.image, turned, (SIDE, SIDE)), transform(turned, made.points)
    found = cut_upright(photo[:, 60:], points - [60, 0])
    eyes = found.points[list(wflw.OUTER_CANTHI)]
    assert abs(eyes[0, 1] - eyes[1, 1]) < 0.5
    assert not found.in_photo.all()
    assert found.in_photo[SIDE // 2, SIDE // 2]


class FakeMesher:
    """Returns the synthetic head for all points."""

    def predict(self, image, points):
        return synthetic_mesh(points, image.shape[:2])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def write_shard(folder, count: int):
    """Write faces on smooth colors. Some of them are held out because of their names."""
    (folder / "images" / "in").mkdir(parents=True)
    lines = []
    for number in range(count):
        points = (60 + number % 7 + EVEN * 90).astype(np.float32)
        ground = np.random.default_rng(number).integers(40, 200, (5, 5, 3)).astype(np.uint8)
        name = f"in/{number:03d}.png"
        cv2.imwrite(str(folder / "images" / name), cv2.resize(ground, (220, 220), interpolation=cv2.INTER_CUBIC))
        lines.append(format_list_line(LabelledFace(name, points, (60, 60, 150, 150), np.zeros(6, np.bool_))))
    (folder / "list_98pt_rect_attr.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def fake_mesher(monkeypatch):
    monkeypatch.setattr(profiles, "FaceMesher", FakeMesher)


def test_rotated_faces_are_a_shard_that_prepare_reads(tmp_path, fake_mesher, capsys):
    shard = write_shard(tmp_path / "in", 4)
    assert command(["turn", str(shard), "-o", str(tmp_path / "out"), "--faces", "7", "--yaw", "40", "60"]) == 0
    assert "7 turned faces" in capsys.readouterr().out
    out = open_set(tmp_path / "out")
    assert len(out.faces) == len({face.image for face in out.faces}) == 7
    assert all(face.image.startswith("turned/in/") for face in out.faces)
    assert all(0 < face.spread < profiles.TURNED_SPREAD for face in out.faces)
    estimates = yaw_estimate(np.stack([face.points for face in out.faces]))
    assert (np.abs(estimates) > 0.2).all()
    assert estimates.min() < 0 < estimates.max()
    assert len(write_pack([out], tmp_path / "pack", 96).pack) == 7


def test_rotated_faces_keep_the_kinds_of_their_points(tmp_path, fake_mesher):
    shard = write_shard(tmp_path / "in", 3)
    names = [face.image for face in open_set(shard).faces]
    write_kinds(shard, {names[0]: FROM_68, names[1]: "2" + FROM_68[1:]})
    assert command(["turn", str(shard), "-o", str(tmp_path / "out"), "--faces", "6"]) == 0
    wanted = [*(face.kinds.tolist() for face in open_set(shard).faces[:2]), [PointKind.PSEUDO] * 98]
    for face in open_set(tmp_path / "out").faces:
        original = next(number for number, name in enumerate(names) if Path(name).stem in face.image)
        assert face.kinds.tolist() == wanted[original]


def test_the_same_seed_gives_the_same_faces(tmp_path, fake_mesher):
    shard = open_set(write_shard(tmp_path / "in", 2))
    runs = []
    for seed in (3, 3, 4):
        flow = profiles.generate_turned_faces([shard], profiles.TurnOptions(seed=seed), [])
        runs.append([next(flow) for _ in range(2)])
        flow.close()
    for (name, image, label), (other, again, same) in zip(runs[0], runs[1], strict=True):
        assert name == other
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(label.points, same.points)
    assert not np.array_equal(runs[0][0][2].points, runs[2][0][2].points)


def test_held_out_faces_are_not_rotated(tmp_path, monkeypatch, fake_mesher):
    monkeypatch.setattr(profiles, "HELD_OUT", 3)
    shard = open_set(write_shard(tmp_path / "in", 6))
    held_out = {face.image for face in shard.faces if is_held_out(face.image, 3)}
    assert held_out
    flow = profiles.generate_turned_faces([shard], profiles.TurnOptions(), [])
    names = [next(flow)[0] for _ in range(24)]
    originals = {"/".join(name.split("/")[1:]).rsplit("_", 1)[0] + ".png" for name in names}
    assert originals
    assert not originals & held_out
    assert not any(is_held_out(f"{name}_0.jpg", 3) for name in names)


def test_a_face_with_some_yaw_is_rotated_further_to_that_side():
    class WithYaw:
        yaw = 0.3

    poses = list(profiles._random_poses(WithYaw(), (30.0, 80.0), np.random.default_rng(0)))
    assert all(math.radians(30) <= pose.yaw <= math.radians(80) for pose in poses)


def test_a_mesh_that_disagrees_with_the_labels_is_refused():
    made = synthetic_face()
    head = synthetic_mesh(made.points, (SIDE, SIDE))
    assert profiles.can_be_turned(head, made.points)
    assert not profiles.can_be_turned(head, made.points + np.array([20, 0]))
    head.mesh[263, 2] += 100
    assert head.yaw > math.radians(profiles.MAX_YAW)
    assert not profiles.can_be_turned(head, made.points)


def test_invalid_input_is_reported_in_one_line(tmp_path, fake_mesher, monkeypatch, capsys):
    write_cofw(tmp_path / "COFW_train_color.mat")
    shard, out = write_shard(tmp_path / "in", 1), str(tmp_path / "out")
    with pytest.raises(InputError, match="have 29 points"):
        command(["turn", str(tmp_path / "COFW_train_color.mat"), "-o", out])
    with pytest.raises(InputError, match="no such file"):
        command(["turn", str(tmp_path / "absent"), "-o", out])
    monkeypatch.setattr(profiles, "can_be_turned", lambda *_: False)
    with pytest.raises(InputError, match="no frontal face can be rotated"):
        command(["turn", str(shard), "-o", out])
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="another folder"):
        command(["turn", str(shard), "-o", str(shard)])
    for words in (["--faces", "0"], ["--yaw", "60", "20"], ["--yaw", "20", "95"], ["--seed", "-1"]):
        with pytest.raises(SystemExit) as ended:
            command(["turn", str(shard), "-o", out, *words])
        assert ended.value.code == 2
    capsys.readouterr()
    assert main(["data", "turn", str(tmp_path / "absent"), "-o", out]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unreadable_image_is_reported_and_skipped(tmp_path, fake_mesher, capsys):
    shard = write_shard(tmp_path / "in", 3)
    (shard / "images" / "in" / "001.png").write_text("not an image")
    assert command(["turn", str(shard), "-o", str(tmp_path / "out"), "--faces", "9"]) == 1
    output = capsys.readouterr()
    assert "9 turned faces" in output.out
    assert "left out" in output.err


def test_ctrl_c_leaves_a_complete_shard(tmp_path, fake_mesher, monkeypatch, capsys):
    shard = write_shard(tmp_path / "in", 2)
    kept = ShardWriter.write

    def stop_at_the_third(self, name, image, labels):
        if self.faces == 2:
            raise KeyboardInterrupt
        kept(self, name, image, labels)

    monkeypatch.setattr(ShardWriter, "write", stop_at_the_third)
    assert command(["turn", str(shard), "-o", str(tmp_path / "out")]) == 130
    assert "stopped" in capsys.readouterr().err
    assert len(open_set(tmp_path / "out").faces) == 2


@pytest.mark.faces
def test_photographs_are_rotated(real_faces, tmp_path):
    """The mesh of a rotated face agrees with its labels."""
    try:
        find_downloads([face_mesh.FACE_MODEL, face_mesh.PERSON_MODEL], fetch=False)
    except ModelError as missing:
        pytest.skip(str(missing))
    faces = open_set(real_faces / "pseudo98" / "pseudo98-wflwimg-0.tar")
    flow = profiles.generate_turned_faces([faces], profiles.TurnOptions((25.0, 45.0)), [])
    with ShardWriter(tmp_path / "shard") as shard, face_mesh.FaceMesher() as mesher:
        apart = []
        for _ in range(6):
            name, image, label = next(flow)
            assert isinstance(label, PseudoLabel)
            again = mesher.predict(image, label.points)
            apart.append(float(np.median(again.distances(label.points))))
            shard.write(name, image, [label])
            assert (label.points > 0).all()
            assert (label.points < RENDERED_SIDE).all()
    assert np.median(apart) < 0.05
    assert len(write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 96).pack) == 6
    assert len(open_pack(tmp_path / "pack")) == 6
