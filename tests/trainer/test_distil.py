"""Distillation: maps of a teacher on the grid of a student, and a student trained with them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from canthus.runtime.decode import encode
from canthus.runtime.errors import InputError, ModelError
from canthus.trainer import train as training
from canthus.trainer.distil import Teacher, resample_maps
from canthus.trainer.faces.schemes import COFW, WFLW
from canthus.trainer.loss import LossWeight, SkpsLoss
from canthus.trainer.networks.checkpoint import Checkpoint, load, load_network, save
from canthus.trainer.networks.head import decode
from canthus.trainer.networks.network import build
from support.training import TINY, UNCOMPILED

NEAR = 0.1
"""Pixels of the student's crop; resampling interpolates the Gaussian linearly between cells."""


@pytest.mark.parametrize(("side", "student"), [(64, 64), (128, 64), (96, 64), (64, 128)])
def test_resampled_teacher_maps_decode_to_the_same_points(side, student):
    points = np.random.default_rng(0).uniform(0.15, 0.8, (2, 5, 2)).astype(np.float32) * side  # of the teacher's crop
    scores, offsets = (torch.from_numpy(part) for part in encode(points, side // 4, 4, 2.0))
    ratio = side / student
    resampled = resample_maps((scores, offsets), 4, student // 4, 4, ratio)
    found, _ = decode(torch.cat([resampled[0], *resampled[1].unbind(1)], 1), 4)
    expected = (torch.from_numpy(points) + 0.5) / ratio - 0.5
    assert (found - expected).abs().max() < NEAR


@pytest.fixture
def teacher(tmp_path) -> Path:
    torch.manual_seed(3)
    metadata = {"network": "student", "points": 98, "size": 64, "stride": 4, "sigma": 2.0, "step": 0}
    save(tmp_path / "teacher", Checkpoint(build("student", 98).state_dict(), metadata, {}, {}))
    return tmp_path / "teacher.safetensors"


def test_teacher_maps_have_the_size_of_the_student_and_scores_from_0_to_1(teacher):
    scores, offsets = Teacher(teacher, WFLW, torch.device("cpu")).maps(torch.randn(2, 3, 32, 32), 4, 1.5)
    assert scores.shape == (2, 98, 8, 8)
    assert offsets.shape == (2, 2, 98, 8, 8)
    assert 0 <= scores.min() <= scores.max() <= 1


def test_teacher_maps_get_the_sigma_of_the_student_and_keep_their_peaks(teacher, monkeypatch):
    network = Teacher(teacher, WFLW, torch.device("cpu"))
    points = np.full((1, 98, 2), 32.0, np.float32)
    scores, offsets = (torch.from_numpy(part) for part in encode(points, 16, 4, 2.0))
    maps = torch.cat([0.6 * scores, *offsets.unbind(1)], 1)
    monkeypatch.setattr(network, "_network", lambda _: maps)
    narrow, wide = (network.maps(torch.zeros(1, 3, 64, 64), 4, sigma)[0][0, 0] for sigma in (2.0, 3.0))
    assert torch.allclose(narrow, 0.6 * scores[0, 0], atol=1e-5)
    assert torch.allclose(wide, 0.6 * torch.from_numpy(encode(points, 16, 4, 3.0)[0])[0, 0], atol=1e-5)


def test_distillation_moves_the_student_closer_to_its_teacher(faces, teacher, tmp_path):
    def distance(weight: float) -> float:
        changes = {"teacher": str(teacher), "distillation_weight": weight} if weight else {}
        recipe = dataclasses.replace(TINY, epochs=2.0, **changes)
        folder = tmp_path / f"run-{weight}"
        training.train(faces, recipe, folder, UNCOMPILED)
        network, _ = load_network(folder / "last")
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        teacher_maps = Teacher(teacher, WFLW, torch.device("cpu")).maps(images, TINY.stride, TINY.sigma)
        with torch.inference_mode():
            return float(
                SkpsLoss(TINY.stride, TINY.sigma, offsets="smooth-l1").against_maps(
                    network(images), *teacher_maps, LossWeight(torch.ones(4), torch.ones(4, 98))
                )
            )

    assert distance(1.0) < distance(0.0)


def test_teacher_with_another_number_of_points_is_refused(teacher):
    with pytest.raises(InputError, match="predicts 98 points of WFLW, the faces have 29 of COFW"):
        Teacher(teacher, COFW, torch.device("cpu"))


def test_teacher_with_the_points_in_another_order_is_refused(teacher):
    other = dataclasses.replace(WFLW, mirror_pairs=WFLW.mirror_pairs[1:])
    with pytest.raises(InputError, match=r"have 98 of WFLW \(different: mirror_pairs\)"):
        Teacher(teacher, other, torch.device("cpu"))
    Teacher(teacher, dataclasses.replace(WFLW, lines=()), torch.device("cpu"))


def test_teacher_without_size_in_its_metadata_is_refused(teacher):
    checkpoint = load(teacher)
    metadata = {name: value for name, value in checkpoint.metadata.items() if name != "size"}
    save(teacher, dataclasses.replace(checkpoint, metadata=metadata))
    with pytest.raises(ModelError, match="its metadata lacks size"):
        Teacher(teacher, WFLW, torch.device("cpu"))
