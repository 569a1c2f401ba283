"""Build real engines with TensorRT-RTX, which needs no GPU to build."""

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from canthus.engines.build import BuildOptions, _builder_config, build
from canthus.engines.commands.engine import command
from canthus.engines.export import export, synthetic_crops
from canthus.engines.graph import decode_maps, engine_graph
from canthus.engines.verify import ParityRow, record_check, sample_crops, torch_points, verify
from canthus.runtime import engine_files
from canthus.runtime.backends import open_backend
from canthus.runtime.backends.cpu import run_exactly
from canthus.runtime.backends.trt import load_flavour, make_logger, select_flavour
from canthus.runtime.cuda.launch import Gpu, find_gpu
from canthus.runtime.engine_files import read_engine, read_engine_manifest
from canthus.runtime.errors import BackendError, CanthusError, EngineError, InputError, ModelError
from canthus.runtime.models import included_models, read_manifest
from canthus.trainer.networks.checkpoint import Checkpoint, save
from canthus.trainer.networks.network import build as build_network

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install -e '.[rtx]'")

SIZE, POINTS = 64, 98
CALIBRATION, NEWER_CALIBRATION = (1.5, -1.25), (2.0, 0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint `best` and its exported model `model.onnx`."""
    return make_model(tmp_path_factory.mktemp("model"))


def make_model(folder: Path, flip_tta: bool = False) -> Path:
    """Write a checkpoint with random weights and export it."""
    torch.manual_seed(6)
    network = build_network("student", POINTS)
    with torch.no_grad():  # the maps of a new head are almost 0, too small for fp16
        network.head[3].weight.normal_(0, 0.05)
    metadata = {
        "network": "student", "points": POINTS, "size": SIZE, "stride": 4, "flip_tta": flip_tta, "step": 1,
        "calibration": list(CALIBRATION),
    }  # fmt: skip
    save(folder / "best", Checkpoint(network.state_dict(), metadata, {}, {}))
    export(folder / "best", folder / "model.onnx", half=True)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Path:
    options = BuildOptions(model=str(folder / "model.onnx"), flavour="tensorrt-rtx")
    return build(options, folder / "built.engine", quiet=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(engine_files, "cache_folder", lambda: tmp_path)
    return tmp_path / "engines"


def test_engine_is_built_for_all_targets_with_its_manifest(folder, engine):
    data, manifest = read_engine(engine)
    assert manifest is not None
    assert len(data) > 5_000_000
    assert {"sm75", "sm86", "sm89", "sm120"} <= set(manifest.recipe.targets)
    assert manifest.bindings == (f"crops: uint8 (N, {SIZE}, {SIZE}, 3)", "maps: float16 (N, 294, 16, 16)")
    assert manifest.recipe.batch == (1, 4, 16)
    assert manifest.layers["convolution"] == 27
    assert manifest.check["graph_median_shift"] < 0.05
    assert manifest.calibration == CALIBRATION
    assert not list(folder.glob(".canthus-*"))


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_only_the_layers_of_the_network_are_fp16(folder, tmp_path, precision):
    graph = engine_graph(folder / "model.onnx", precision)
    whole = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph), strict_mode=True)
    weights = {one.data_type for one in whole.graph.initializer if len(one.dims) == 4 and one.dims[2] == 3}
    assert weights == {TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT}
    kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
    assert [out.type.tensor_type.elem_type for out in whole.graph.output] == [kind]
    assert whole.graph.node[0].op_type == "Cast"  # in TensorRT only a Cast can read uint8
    (tmp_path / "graph.onnx").write_bytes(graph)
    crops = synthetic_crops(2, SIZE)
    manifest = read_manifest(folder / "model.onnx")
    points, scores = decode_maps(run_exactly(tmp_path / "graph.onnx", crops)[0], manifest)
    expected_points, expected_scores = run_exactly(folder / "model.onnx", crops)
    assert np.median(np.abs(points - expected_points)) < (1e-4 if precision == "fp32" else 0.02)
    assert np.abs(scores - expected_scores).max() < (1e-4 if precision == "fp32" else 0.02)


def test_products_of_fp32_are_not_rounded_to_tf32():
    tensorrt = load_flavour("tensorrt-rtx")
    builder, flag = tensorrt.Builder(make_logger(tensorrt)), tensorrt.BuilderFlag.TF32
    recipe = SimpleNamespace(batch=(1, 2, 2), flavour="tensorrt-rtx", targets=("sm86",))
    assert builder.create_builder_config().get_flag(flag)  # the default
    assert not _builder_config(tensorrt, builder, recipe, SimpleNamespace(size=SIZE)).get_flag(flag)


@pytest.mark.parametrize("with_decode", [False, True])
@pytest.mark.parametrize("name", sorted(included_models()))
def test_graphs_of_included_models_are_valid(name, with_decode):
    graph = engine_graph(included_models()[name], "fp16", with_decode=with_decode)
    onnx.shape_inference.infer_shapes(onnx.load_from_string(graph), strict_mode=True)


def test_decode_in_the_graph_is_float32(folder, tmp_path):
    crops = sample_crops(SIZE).images
    expected = run_exactly(folder / "model.onnx", crops)
    for precision, largest in (("fp32", 1e-3), ("fp16", None)):
        (tmp_path / "graph.onnx").write_bytes(engine_graph(folder / "model.onnx", precision, with_decode=True))
        found = run_exactly(tmp_path / "graph.onnx", crops)
        difference = np.abs(found[0] - expected[0])
        assert np.median(difference) < 0.02
        assert largest is None or difference.max() < largest
        graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "graph.onnx"), strict_mode=True).graph
        assert [end.type.tensor_type.elem_type for end in graph.output] == [TensorProto.FLOAT] * 2
        (maps,) = (value for value in graph.value_info if value.name == "maps")
        assert maps.type.tensor_type.elem_type == TensorProto.FLOAT


def test_changed_engine_is_refused_before_tensorrt_loads_it(engine, tmp_path, monkeypatch):
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    other = tmp_path / "other.engine"
    other.write_bytes(data)
    other.with_suffix(".json").write_text(engine.with_suffix(".json").read_text())
    monkeypatch.setattr(
        "canthus.runtime.backends.trt.load_flavour", lambda flavour: pytest.fail("TensorRT saw the file")
    )
    with pytest.raises(EngineError, match="SHA-256 differs"):
        command(["verify", str(other)])
    other.with_suffix(".json").unlink()
    with pytest.raises(EngineError, match="--trust"):
        command(["inspect", str(other)])


def test_engine_without_a_gpu_names_the_alternative(engine):
    if find_gpu() is not None:
        pytest.skip("a GPU is here")
    with pytest.raises(BackendError, match=r"NVIDIA.*\.onnx"):
        open_backend(engine)


def test_cached_engine_is_kept_until_something_changes(folder, cache, tmp_path, capsys):
    model = tmp_path / "model.onnx"
    for part in (".onnx", ".json"):
        shutil.copy((folder / "model.onnx").with_suffix(part), model.with_suffix(part))
    arguments = ["build", "--model", str(model), "--flavour", "tensorrt-rtx", "--target", "sm86"]
    assert command(arguments) == 0
    (first,) = cache.glob("*.engine")
    stamp = first.stat().st_mtime_ns
    assert command(arguments) == 0
    assert "built already" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == stamp
    assert read_engine_manifest(first).calibration == CALIBRATION
    for calibration, run_again in (
        (NEWER_CALIBRATION, lambda: command(arguments)),
        (CALIBRATION, lambda: build(BuildOptions(str(model), "tensorrt-rtx", targets="sm86"))),
    ):
        before = read_engine_manifest(first)
        dataclasses.replace(read_manifest(model), calibration=calibration).write(model)
        run_again()
        assert read_engine_manifest(first) == dataclasses.replace(before, calibration=calibration)
        assert sorted(path.suffix for path in cache.iterdir()) == [".engine", ".json"]
    assert first.stat().st_mtime_ns == stamp
    assert command([*arguments, "--max-batch", "2", "--precision", "fp32"]) == 0
    assert len(list(cache.glob("*.engine"))) == 2
    first.write_bytes(first.read_bytes()[:-1])
    capsys.readouterr()
    assert command(["list"]) == 0
    assert "[damaged]" in capsys.readouterr().out
    assert command(arguments) == 0  # a damaged engine is built again
    assert command(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.split("\n", 2)[2])
    assert {one["manifest"]["precision"] if "precision" in one["manifest"] else one["state"] for one in listed} == {
        "ready"
    }
    assert command(["inspect", first.stem[:8], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["targets"] == ["sm86"]
    assert command(["remove", "--all"]) == 0
    assert not list(cache.iterdir())


def test_remove_deletes_nothing_for_a_missing_engine(tmp_path):
    (tmp_path / "student.json").write_text("{}")
    with pytest.raises(EngineError, match="no such engine"):
        command(["remove", str(tmp_path / "student.engine")])
    assert (tmp_path / "student.json").exists()


def test_interrupted_build_leaves_no_files(folder, tmp_path, monkeypatch):
    def interrupt(bar: object, steps: int = 1) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("canthus.engines.build.tqdm.update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(BuildOptions(model=str(folder / "model.onnx"), flavour="tensorrt-rtx"), tmp_path / "m.engine", quiet=True)
    assert not list(tmp_path.iterdir())


def test_files_of_a_killed_build_are_deleted_after_a_day(folder, tmp_path):
    old, new = tmp_path / ".canthus-old", tmp_path / ".canthus-new"
    for draft in (old, new):
        draft.mkdir()
        (draft / "m.onnx").write_bytes(b"a graph")
    os.utime(old, (0, 0))
    build(BuildOptions(str(folder / "model.onnx"), "tensorrt-rtx", targets="sm86"), tmp_path / "m.engine", quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".canthus-new", "m.engine", "m.json"]


def test_impossible_builds_are_refused_with_a_reason(folder, engine, tmp_path):
    model = str(folder / "model.onnx")
    for options, output, reason in [
        (BuildOptions(model, "tensorrt-rtx"), engine, "--overwrite"),
        (BuildOptions(model, "tensorrt-rtx", targets="sm86,sm12"), tmp_path / "m.engine", "sm12"),
        (BuildOptions(model, "tensorrt-rtx", max_batch=0), tmp_path / "m.engine", "--max-batch"),
        (BuildOptions(model, "tensorrt-rtx"), tmp_path / "m.plan", r"\.engine"),
        (BuildOptions(model, "tensorrt-rtx"), folder / "model.engine", "belongs to another file"),
        (BuildOptions(str(tmp_path / "absent.onnx"), "tensorrt-rtx"), None, "no such model"),
    ]:
        with pytest.raises((InputError, CanthusError), match=reason):
            build(options, output, quiet=True)


@pytest.mark.parametrize(("capability", "flavour"), [(120, "tensorrt-rtx"), (90, None)])
def test_flavour_is_one_that_supports_the_gpu(capability, flavour, monkeypatch):
    monkeypatch.setattr("canthus.runtime.backends.trt.find_gpu", lambda: Gpu("NVIDIA X", capability))
    monkeypatch.setattr("canthus.runtime.backends.trt.installed_flavours", lambda: ("tensorrt-rtx",))
    if flavour:
        assert select_flavour() == flavour
    else:
        with pytest.raises(BackendError, match=r"NVIDIA X \(sm90\).*\[tensorrt\]"):
            select_flavour()


def test_unsupported_gpu_is_not_a_target_of_tensorrt_rtx(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("canthus.engines.build.find_gpu", lambda: Gpu("NVIDIA X", 90))
    options = BuildOptions(str(folder / "model.onnx"), "tensorrt-rtx", targets="current")
    with pytest.raises(InputError, match="--target sm90: tensorrt-rtx builds for sm75"):
        build(options, tmp_path / "m.engine", quiet=True)


def test_verify_of_an_engine_that_did_not_run_is_an_error(engine, capsys):
    if find_gpu() is not None:
        pytest.skip("a GPU is here")
    with pytest.raises(BackendError, match=r"built\.engine: not verified, because it did not run: no NVIDIA GPU"):
        command(["verify", str(engine)])
    assert "graph of the engine" in capsys.readouterr().out


def test_model_that_decodes_the_peak_cell_alone_is_refused(folder, tmp_path):
    model = tmp_path / "peak.onnx"
    shutil.copy(folder / "model.onnx", model)
    manifest = read_manifest(folder / "model.onnx")
    dataclasses.replace(manifest, training={**manifest.training, "decode": "peak"}).write(model)
    with pytest.raises(ModelError, match=r"peak\.onnx: decodes its points from the peak cell alone"):
        build(BuildOptions(str(model), "tensorrt-rtx"), tmp_path / "m.engine", quiet=True)


def test_verify_compares_pytorch_onnx_and_engine(folder, engine):
    rows = verify(engine, checkpoint=folder / "best")
    assert [row.name.split(",")[0] for row in rows] == ["PyTorch", "ONNX", "ONNX", "graph of the engine", "engine"]
    # The maps of an untrained network have no clear peaks, so single points move more than those of a trained one.
    assert rows[0].largest == 0
    assert rows[1].mean < 0.05
    assert rows[3].mean < 0.1
    assert rows[4].not_run or rows[4].mean < 0.1
    manifest = read_engine_manifest(engine)
    assert manifest.size == SIZE


def test_verify_reads_models_that_version_0_1_exported(folder):
    manifest = read_manifest(folder / "model.onnx")
    training = {name: value for name, value in manifest.training.items() if name != "flip_tta"}
    images = sample_crops(SIZE).images[:1]
    old = dataclasses.replace(manifest, training={**training, "mirrored": False})
    assert torch_points(folder / "best", old, images).shape == (1, POINTS, 2)
    other = dataclasses.replace(manifest, training={**training, "mirrored": True})
    with pytest.raises(ModelError, match="another checkpoint"):
        torch_points(folder / "best", other, images)


def test_network_with_flip_tta_is_built_like_any_other(tmp_path, engine):
    folder = make_model(tmp_path, flip_tta=True)
    options = BuildOptions(str(folder / "model.onnx"), "tensorrt-rtx", targets="sm86")
    both = build(options, folder / "both.engine", quiet=True)
    one, two = read_engine_manifest(engine), read_engine_manifest(both)
    assert two.bindings == one.bindings
    assert two.layers["convolution"] == one.layers["convolution"]  # image and mirror image are one batch
    rows = verify(both, checkpoint=folder / "best")
    assert rows[1].mean < 0.05
    assert rows[3].mean < 0.1


def test_tolerance_applies_to_the_largest_shift_and_is_recorded(engine, tmp_path):
    crops = sample_crops(SIZE).images
    assert crops.shape == (16, SIZE, SIZE, 3)
    np.testing.assert_array_equal(crops, sample_crops(SIZE).images)
    near = ParityRow("engine", 0.01, 0.1, 0.2, 5.0, 0.01)
    far = dataclasses.replace(near, largest=0.3)
    assert near.within_tolerance(256)
    assert not far.within_tolerance(256)
    assert not dataclasses.replace(near, largest=math.nan).within_tolerance(256)
    assert not dataclasses.replace(near, nme_change=-0.02).within_tolerance(256)
    copy = tmp_path / "copy.engine"
    shutil.copy(engine, copy)
    shutil.copy(engine.with_suffix(".json"), copy.with_suffix(".json"))
    record_check(copy, [near, far])
    assert not read_engine_manifest(copy).passed_check
    record_check(copy, [near, dataclasses.replace(near, largest=0.01)])
    assert read_engine_manifest(copy).passed_check
