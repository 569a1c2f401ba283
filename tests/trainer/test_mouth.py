"""The mouth opening: its length, its error on wide-open mouths, and how often training draws them."""

import json

import cv2
import numpy as np
import pytest

from canthus.runtime import wflw
from canthus.trainer.commands.evaluate import command
from canthus.trainer.evaluation import evaluate as evaluating
from canthus.trainer.evaluation.evaluate import Candidate, evaluate
from canthus.trainer.evaluation.json_report import to_json
from canthus.trainer.evaluation.mouth import measure_mouth
from canthus.trainer.evaluation.tables import mouth_caption, mouth_table
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.faces.labelled import LabelledFace
from canthus.trainer.faces.lengths import WIDE_OPEN, box_root, face_length, is_wide_open, mouth_opening
from canthus.trainer.faces.schemes import SCHEMES
from canthus.trainer.faces.wflw_lists import SHARD_LIST
from canthus.trainer.packs.batches import Batches
from canthus.trainer.packs.pack import write_pack
from canthus.trainer.recipe import Recipe
from support.shape import SHAPE
from support.shards import draw_face, line
from support.training import Knowing

UPPER, LOWER = [89, 90, 91], [93, 94, 95]


def opened(by: float, points: np.ndarray = SHAPE * 100) -> np.ndarray:
    """Return points with the inner lower lip exactly `by` pixels below the upper one."""
    points = points.astype(np.float32).copy()
    points[LOWER[::-1]] = points[UPPER] + np.array([0, by], np.float32)
    return points


def face(points: np.ndarray, kinds: np.ndarray | None = None) -> LabelledFace:
    kinds = np.full(98, PointKind.PLACED, np.uint8) if kinds is None else kinds
    return LabelledFace("a.png", points, (0, 0, 1, 1), np.zeros(6, np.bool_), kinds=kinds)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_lip_pairs_are_mirrored_onto_each_other(scheme):
    mirrored = {tuple(scheme.mirror[list(pair)].tolist()) for pair in scheme.lip_pairs}
    assert mirrored == set(scheme.lip_pairs)
    assert all(0 <= point < scheme.points for pair in scheme.lip_pairs for point in pair)


def test_opening_is_the_distance_of_the_inner_lips_and_turns_with_the_face():
    points = opened(12)
    turned = points @ np.array([[0, 1], [-1, 0]], np.float32)
    np.testing.assert_allclose(mouth_opening(np.stack([points, turned])), 12, rtol=1e-5)
    assert set(UPPER + LOWER) < set(wflw.INNER_LIPS)


def test_length_of_a_face_is_the_inter_ocular_distance_unless_the_face_is_turned():
    frontal = SHAPE[None] * 100
    wide = frontal.copy()
    wide[0, 60, 0] -= 30
    assert face_length(wide)[0] == pytest.approx(np.linalg.norm(wide[0, 72] - wide[0, 60]))
    turned = frontal.copy()
    turned[0, 60] = turned[0, 72]
    assert face_length(turned)[0] == pytest.approx(0.63 * box_root(turned)[0])
    some = np.zeros((1, 98), np.bool_)
    assert box_root(turned, some)[0] == 0


def test_only_wide_open_mouths_with_measured_lips_count():
    length = float(face_length(opened(30)[None])[0])
    filled_in = np.full(98, PointKind.PLACED, np.uint8)
    filled_in[94] = PointKind.FILLED_IN
    faces = [face(opened(30)), face(opened(1)), face(opened(30), filled_in), face(opened(30)), face(opened(30))]
    predicted = np.stack([opened(27), opened(9), opened(0), opened(31), np.full((98, 2), np.nan)])
    found = measure_mouth(faces, predicted)
    assert found.error.faces == 3
    assert found.error.missed == 1
    assert found.error.nme == pytest.approx(100 * 2 / length, rel=1e-4)
    assert found.bias == pytest.approx(100 * -1 / length, rel=1e-4)
    assert found.opening == pytest.approx(100 * 30 / length, rel=1e-4)
    assert measure_mouth(faces[1:3], predicted[1:3]) is None
    assert np.isnan(measure_mouth(faces[4:], predicted[4:]).bias)


def write_mouths(folder, openings: list[float]) -> None:
    """Write a shard of faces whose mouths are open by these distances in pixels."""
    lines = []
    for number, by in enumerate(openings):
        points = opened(by, 30 + SHAPE * 80)
        path = folder / f"images/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), draw_face(140, points, number)[..., ::-1])
        lines.append(line(points, path.name))
    (folder / SHARD_LIST).write_text("".join(lines))


def test_wide_open_mouths_are_drawn_more_often(tmp_path):
    write_mouths(tmp_path / "shard", [1, 1, 1, 20])
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 96).pack
    assert is_wide_open(pack.points).tolist() == [False, False, False, True]
    for weight, share in ((1, 1 / 4), (3, 3 / 6), (0, 0)):
        recipe = Recipe(held_out=0, batch=1200, size=32, profile_weight=1, open_mouth_weight=weight)
        drawn = Batches(pack, recipe).sample_rows(0)
        assert (drawn == 3).mean() == pytest.approx(share, abs=0.05)


def test_unlabelled_lips_are_not_open():
    points = np.zeros((1, 98, 2), np.float32)
    assert not is_wide_open(points).any()


def test_eval_prints_the_error_of_the_mouth_opening(tmp_path, monkeypatch, capsys):
    write_mouths(tmp_path, [1, 20, 24])
    monkeypatch.setattr(evaluating, "open_candidate", lambda name: Candidate("knowing", Knowing()))
    words = ["--data", str(tmp_path), "--json", str(tmp_path / "out.json")]
    for more in ([], ["--markdown"]):
        assert command([*words, *more]) == 0
        out = capsys.readouterr().out
        assert f"opening of the 2 wide-open mouths (labelled opening above {100 * WIDE_OPEN:g} %" in out
    values = json.loads((tmp_path / "out.json").read_text())["mouth_opening"]
    assert values["error"]["faces"] == 2
    assert values["bias"] < 0


def test_sets_without_a_wide_open_mouth_print_no_table(tmp_path):
    write_mouths(tmp_path, [1])
    results = evaluate([open_set(tmp_path)], [Candidate("knowing", Knowing())])
    assert mouth_caption(results) == ""
    assert len(mouth_table(results, markdown=True).splitlines()) == 2
    assert "mouth_opening" not in to_json(results)
