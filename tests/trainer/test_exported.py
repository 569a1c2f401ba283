"""Training starts from an exported model: the same network, with batch normalization, and other points if need be."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from canthus.runtime.backends.cpu import run_exactly
from canthus.runtime.errors import ModelError
from canthus.runtime.models import find_model, parse_manifest
from canthus.runtime.schemes import WFLW, Scheme, included_scheme
from canthus.trainer.networks import exported
from canthus.trainer.networks.exported import Target, exported_model, load_exported
from canthus.trainer.networks.head import split_maps
from canthus.trainer.networks.network import DecodingNetwork, build, normalize

FAST = parse_manifest(find_model("fast")).network


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8).repeat(16, 1).repeat(16, 2)


def test_a_network_from_an_exported_model_predicts_the_same(crops):
    network = build(FAST, WFLW.points)
    summary = load_exported(find_model("fast"), Target(FAST, network, WFLW), crops)
    assert "of WFLW" not in summary  # the points are the same
    with torch.inference_mode():
        points, _ = DecodingNetwork(network, network.stride).eval()(torch.from_numpy(crops))
        maps = network(normalize(torch.from_numpy(crops)))
        in_training = network.train()(normalize(torch.from_numpy(crops)))  # by the statistics of the batch
    expected = run_exactly(find_model("fast"), crops)[0]
    assert np.median(np.abs(points.numpy() - expected)) < 0.01
    torch.testing.assert_close(in_training, maps, atol=0.02, rtol=0.02)


def test_shared_points_keep_their_maps_and_others_are_new(crops):
    networks = {}
    for scheme in (WFLW, included_scheme("300w"), included_scheme("aflw"), Scheme("own", 5)):
        networks[scheme.points] = build(FAST, scheme.points).eval()
        summary = load_exported(find_model("fast"), Target(FAST, networks[scheme.points], scheme), crops)
    assert "of the 5 points of own, 0 start from maps of WFLW and 5 are new (the field wflw of a scheme" in summary
    with torch.inference_mode():
        images = normalize(torch.from_numpy(crops[:1]))
        of_98, of_68, of_19, of_5 = (split_maps(networks[points](images)) for points in (98, 68, 19, 5))
    for ours, theirs in zip(of_68, of_98, strict=True):
        torch.testing.assert_close(ours, theirs[..., list(WFLW.ibug_68), :, :])
    for ours, theirs in zip(of_19, of_98, strict=True):
        torch.testing.assert_close(ours, theirs[..., list(included_scheme("aflw").wflw), :, :])
    assert of_5[0].abs().max() < 0.1


@pytest.mark.parametrize("model", ["tiny", "accurate"])
def test_other_included_models_start_other_points_too_and_say_so(model, crops):
    lapa, file = included_scheme("lapa"), find_model(model)
    manifest = parse_manifest(file)
    network = build(manifest.network, lapa.points)
    summary = load_exported(file, Target(manifest.network, network, lapa), crops[:1])
    assert "of the 106 points of LaPa, 100 start from maps of WFLW and 6 are new" in summary
    assert ("; it was trained with crops of 96 px, not 128 (--set size=96)" in summary) == (model == "tiny")


def test_a_student_starts_from_another_and_names_the_layers_that_are_new(crops):
    lean = build("student_lean", WFLW.points)
    summary = load_exported(find_model("accurate"), Target("student_lean", lean, WFLW), crops)
    assert "loaded 20 of its 26 layers" in summary
    assert "it is a student_stride8, so a student_lean needs more training" in summary
    assert "new" not in summary

    large = build("student_stride8", 5)
    before = large.state_dict()["down.0.0.first.0.weight"].clone()
    summary = load_exported(
        find_model("tiny"), Target("student_stride8", large, Scheme("own", 5, wflw=(54,) * 5)), crops
    )
    assert "loaded 20 of its 20 layers" in summary
    assert "; 6 layers of a student_stride8 are new (down.0.0.first.0, down.0.0.second.0, " in summary
    assert "of the 5 points of own, 5 start from maps of WFLW" in summary
    assert torch.equal(large.state_dict()["down.0.0.first.0.weight"], before)

    w300 = included_scheme("300w")
    summary = load_exported(find_model("tiny"), Target("student", build("student", w300.points), w300), crops)
    assert "join.0.0, head.0, head.3)" in summary  # their shapes differ
    assert "of the 68 points of 300W, 0 start from maps of WFLW and 68 are new" in summary


def test_points_are_shared_through_those_of_wflw():
    cofw, aflw, w300 = (included_scheme(name) for name in ("cofw", "aflw", "300w"))
    shared = exported._shared_points(cofw, aflw)
    assert (20, 13) in shared  # the tip of the nose
    assert (8, 6) in shared  # the outer corner of the left eye
    assert (30, 13) in exported._shared_points(w300, aflw)
    assert exported._shared_points(w300, Scheme("own", 2)) == []
    assert exported._shared_points(Scheme("own", 2, wflw=(54, -1)), aflw) == [(0, 13)]


def test_names_of_included_models_and_onnx_files_are_exported_models(tmp_path):
    assert exported_model(Path("fast")) == find_model("fast")
    assert exported_model(tmp_path / "own.onnx") == tmp_path / "own.onnx"
    assert exported_model(tmp_path / "own.safetensors") is None
    assert exported_model(Path("none")) is None


def test_a_model_that_does_not_fit_is_refused(crops, monkeypatch):
    with pytest.raises(ModelError, match=rf"is a {FAST}, the recipe trains a hrnet_w18; .*--network {FAST}"):
        load_exported(find_model("fast"), Target("hrnet_w18", build(FAST, 5), Scheme("own", 5)), crops)
    manifest = dataclasses.replace(parse_manifest(find_model("fast")), precision="int8")
    monkeypatch.setattr(exported, "read_manifest", lambda _: manifest)
    with pytest.raises(ModelError, match="computes in 8 bits"):
        load_exported(find_model("fast"), Target(FAST, build(FAST, 5), Scheme("own", 5)), crops)
