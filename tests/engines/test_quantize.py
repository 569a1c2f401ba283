"""The 8-bit version of an exported model: what it contains, when it is refused, and which version a command runs."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from canthus.engines import build as engine_build
from canthus.engines import quantize as quantization
from canthus.engines.build import BuildOptions, default_precision
from canthus.engines.build import build as build_engine
from canthus.engines.commands.export import command
from canthus.engines.export import export, synthetic_crops
from canthus.engines.graph import decode_maps, engine_graph
from canthus.engines.quantize import QuantizeOptions, float_nodes, quantize
from canthus.engines.verify import verify
from canthus.runtime.backends import automatic
from canthus.runtime.backends.automatic import open_automatic
from canthus.runtime.backends.cpu import OpenVINOBackend, run_exactly
from canthus.runtime.engine_files import read_engine_manifest
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.models import find_int8, find_precision, included_models, read_manifest, read_model
from canthus.runtime.pipeline import Settings
from canthus.trainer.evaluation.evaluate import open_candidate
from canthus.trainer.networks.checkpoint import Checkpoint, save
from canthus.trainer.networks.network import build
from canthus.trainer.packs.pack import Pack
from support.training import pack_folder

pytest.importorskip("nncf", reason="NNCF is not installed: pip install -e '.[quantize]'")

SIZE, POINTS, CROPS = 64, 98, 6


def save_network(folder: Path) -> Path:
    """Write a checkpoint whose maps are not almost 0 as those of a new head are."""
    torch.manual_seed(6)
    network = build("student", POINTS)
    with torch.no_grad():
        network.head[3].weight.normal_(0, 0.05)
    metadata = {"network": "student", "points": POINTS, "size": SIZE, "stride": 4, "flip_tta": False}
    save(folder / "best", Checkpoint(network.state_dict(), metadata, {}, {}))
    return folder / "best.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory, faces: Pack) -> Path:
    """The float model, with its 8-bit version beside it."""
    folder = tmp_path_factory.mktemp("models")
    export(save_network(folder), folder / "model.onnx", half=True)
    quantize(folder / "model.onnx", QuantizeOptions(Path(pack_folder(faces)), CROPS, held_out=3, force=True))
    return folder / "model.onnx"


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """Copies of both, that a test may change."""
    for file in made.parent.glob("model.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "model.onnx"


def convolutions(graph: onnx.GraphProto) -> list[list[str]]:
    """Return the operators that make the data and the weights of each convolution."""
    producers = {value: node.op_type for node in graph.node for value in node.output}
    return [[producers.get(name, "") for name in node.input[:2]] for node in graph.node if node.op_type == "Conv"]


def test_all_convolutions_but_the_first_and_the_last_are_in_8_bits_and_nothing_after_them(made):
    graph = onnx.load(made.with_name("model.int8.onnx")).graph
    first, *others, last = convolutions(graph)
    assert "DequantizeLinear" not in first + last
    assert len(others) == 25
    assert all(weights == "DequantizeLinear" for _, weights in others)
    operators = [node.op_type for node in graph.node]
    end = max(index for index, name in enumerate(operators) if name == "Conv")
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(operators[end:])


def test_manifest_names_precision_float_model_and_calibration(made):
    own, of_float = read_manifest(made.with_name("model.int8.onnx")), read_manifest(made)
    assert (own.precision, of_float.precision) == ("int8", "float")
    assert (own.size, own.points, own.calibration) == (SIZE, POINTS, of_float.calibration)
    assert own.quantization is not None
    assert own.quantization.float_sha256 == of_float.sha256
    assert (own.quantization.crops, own.quantization.preset) == (CROPS, "mixed")
    figures = own.figures["quantization, held-out faces"]
    assert figures["faces"] > 0
    assert figures["nme_float"] > 0


def test_8_bit_model_predicts_almost_the_points_of_the_float_model(made):
    crops = synthetic_crops(4, SIZE)
    with OpenVINOBackend(read_model(made)) as one, OpenVINOBackend(read_model(find_int8(made))) as other:
        points, scores = one.predict(crops)
        points_int8, scores_int8 = other.predict(crops)
        assert "8 bits" in other.name
        assert "8 bits" not in one.name
        alone = [other.predict(crops[index : index + 1])[0][0] for index in range(4)]
        assert other.predict(crops[:0])[0].shape == (0, POINTS, 2)
    assert np.median(np.abs(points_int8 - points)) < 0.02 * SIZE
    assert np.median(np.abs(scores_int8 - scores)) < 0.02
    np.testing.assert_array_equal(points_int8, np.stack(alone))  # one crop does not change another


def test_8_bit_model_is_refused_if_its_error_rises_too_much(model, faces, monkeypatch):
    monkeypatch.setattr(quantization, "MAX_RISE", -1.0)
    before = sorted(model.parent.iterdir()), model.with_name("model.int8.onnx").read_bytes()
    with pytest.raises(ModelError, match=r"model\.int8\.onnx: not written: in 8 bits the NME of \d+ held-out faces"):
        quantize(model, QuantizeOptions(Path(pack_folder(faces)), 2, held_out=3), overwrite=True)
    assert before == (sorted(model.parent.iterdir()), model.with_name("model.int8.onnx").read_bytes())


def test_calibration_uses_no_held_out_face(faces):
    manifest = dataclasses.replace(read_model_of_recipe(3))
    rows = quantization._choose_rows(faces, QuantizeOptions(Path()), manifest)
    assert len(rows.measured)
    assert not set(rows.calibration) & set(rows.measured)
    names = {faces.names[row] for row in rows.measured}
    assert not names & {faces.names[row] for row in rows.calibration}
    with pytest.raises(InputError, match="too few faces"):
        quantization._choose_rows(faces, QuantizeOptions(Path("pack"), held_out=100_000), manifest)


def read_model_of_recipe(held_out: int):
    """Return a manifest whose recipe holds out one face in `held_out`."""
    manifest = quantization.Manifest("", "student", SIZE, POINTS, 4)
    return dataclasses.replace(manifest, training={"recipe": {"held_out": held_out}})


@pytest.mark.parametrize("name", sorted(included_models()))  # one of them with flip test-time augmentation
def test_float_nodes_are_those_before_the_second_convolution_and_from_the_last_on(name):
    graph = onnx.load(included_models()[name]).graph
    names = float_nodes(graph)
    kinds = {node.name: node.op_type for node in graph.node}
    stay = [kinds[name] for name in names]
    assert stay.count("Conv") == 2
    assert {"Sub", "Div", "ReduceSum", "Exp"} <= set(stay)
    assert "Relu" not in stay


def test_command_makes_the_8_bit_version_and_says_how_accurate_it_is(model, faces, capsys):
    for path in model.parent.glob("model.int8.*"):
        path.unlink()
    words = ["--precision", "int8", "--calibrate", pack_folder(faces), "--crops", "2", "--held-out", "3", "--force"]
    assert command([str(model), *words]) == 0
    shown = capsys.readouterr().out
    assert "model.int8.onnx: 8 bits" in shown
    assert "NME on" in shown
    assert "% of itself" in shown
    with pytest.raises(InputError, match=r"model\.int8\.onnx: exists already"):
        command([str(model), *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.onnx", "--precision", "int8"], "--calibrate PACK"),
        (["model.onnx"], "is exported already"),
        (["model.onnx", "--precision", "int8", "--calibrate", "p", "--half"], "-o and --half are for checkpoints"),
        (["best.safetensors", "-o", "m.onnx", "--calibrate", "p"], "are for --precision int8"),
        (["best.safetensors"], "required: -o"),
        (["best.safetensors", "-o", "m.onnx", "--maps", "--precision", "int8", "--calibrate", "p"], "without a decode"),
    ],
)
def test_options_that_do_not_fit_together_are_wrong_usage(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        command(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("machine", "default"),
    [("x86_64", ", 8 bits"), ("arm64", "")],
)
def test_cpu_runs_the_8_bit_version_where_it_is_faster_and_the_other_if_it_is_wanted(
    model, monkeypatch, machine, default
):
    monkeypatch.setattr(automatic.platform, "machine", lambda: machine)
    for precision, suffix in ((None, default), ("int8", ", 8 bits"), ("float", "")):
        with open_automatic(model, gpu=False, precision=precision) as backend:
            assert backend.name == f"OpenVINO on the CPU{suffix}"


def test_damaged_or_foreign_8_bit_version_is_not_run(model, caplog, monkeypatch):
    monkeypatch.setattr(automatic, "int8_is_faster", lambda: True)
    int8 = model.with_name("model.int8.onnx")
    int8.write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING), open_automatic(model, gpu=False) as backend:
        assert backend.name == "OpenVINO on the CPU"
    assert "SHA-256 differs" in caplog.text
    assert caplog.text.rstrip().endswith("the float model is used")
    with pytest.raises(ModelError, match="SHA-256 differs"):
        open_automatic(model, gpu=False, precision="int8")

    fields = json.loads(int8.with_suffix(".json").read_text())
    fields["quantization"]["float_sha256"] = "another"
    int8.with_suffix(".json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match=r"not made from this model\.onnx; make it again: canthus export"):
        find_int8(model)


def test_precision_that_a_model_lacks_is_one_clear_error(model):
    int8 = model.with_name("model.int8.onnx")
    assert find_precision(model, "int8") == find_precision(int8, "int8") == int8
    with pytest.raises(ModelError, match="is an 8-bit model"):
        find_precision(int8, "float")
    int8.unlink()
    assert find_int8(model) is None
    with pytest.raises(ModelError, match=r"has no 8-bit version .*make one: canthus export .*--calibrate PACK"):
        find_precision(model, "int8")
    with pytest.raises(InputError, match="precision must be float, int8 or None, got 'int4'"):
        Settings(precision="int4")  # type: ignore[arg-type]


def test_eval_measures_both_precisions_side_by_side(model):
    for name, expected in (("", "OpenVINO on the CPU"), (":int8", "OpenVINO on the CPU, 8 bits")):
        candidate = open_candidate(f"{model}{name}")
        assert (candidate.name, candidate.backend.name) == (f"{model}{name}", expected)
        candidate.backend.close()


def test_graph_for_tensorrt_has_int8_activations_without_zero_points(made, tmp_path):
    int8 = made.with_name("model.int8.onnx")
    (tmp_path / "graph.onnx").write_bytes(engine_graph(int8, "int8"))
    graph = onnx.load(tmp_path / "graph.onnx").graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    zeros = [constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    crops = synthetic_crops(2, SIZE)
    points, scores = decode_maps(run_exactly(tmp_path / "graph.onnx", crops)[0], read_manifest(int8))
    expected_points, expected_scores = run_exactly(int8, crops)
    assert np.median(np.abs(points - expected_points)) < 0.02 * SIZE
    assert np.median(np.abs(scores - expected_scores)) < 0.02


def test_engine_in_8_bits_is_built_from_the_8_bit_version(made, model, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install -e '.[rtx]'")
    monkeypatch.setattr(engine_build, "INT8_GRAPH_SHIFT", 0.02 * SIZE)  # of a network with random weights
    options = BuildOptions(str(model), "tensorrt-rtx", "int8", targets="sm86")
    manifest = read_engine_manifest(build_engine(options, model.with_name("m.engine"), quiet=True))
    assert (manifest.recipe.precision, manifest.layers["convolution"]) == ("int8", 27)
    assert manifest.layers["quantize"] > 0
    assert manifest.recipe.model_sha256 == read_manifest(model.with_name("model.int8.onnx")).sha256
    rows = verify(model.with_name("m.engine"))
    assert [row.name for row in rows[:1]] == ["ONNX, 8 bits"]
    assert default_precision(str(model.with_name("model.int8.onnx"))) == "int8"
    assert default_precision(str(model)) == "fp16"
    with pytest.raises(ModelError, match="is an 8-bit model"):
        build_engine(dataclasses.replace(options, model=str(model.with_name("model.int8.onnx")), precision="fp16"))
