"""Training runs and their checkpoints: reproducible, resumed, refused."""

import csv
import dataclasses
import errno
import json
import pickle
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from canthus.runtime import wflw
from canthus.runtime.errors import BackendError, InputError, ModelError
from canthus.trainer import run as run_module
from canthus.trainer import train as training
from canthus.trainer.commands.train import command
from canthus.trainer.faces.formats import open_set
from canthus.trainer.log import Log, Row, draw_crops
from canthus.trainer.networks.checkpoint import (
    Checkpoint,
    CheckpointBackend,
    flatten_optimizer,
    load,
    load_network,
    restore_optimizer,
    save,
)
from canthus.trainer.networks.network import DecodingNetwork, build
from canthus.trainer.packs.pack import write_pack
from canthus.trainer.parallel import World
from canthus.trainer.recipe import Recipe, change, default_recipe, load_recipe
from canthus.trainer.run import TrainOptions
from support.shards import write_shard
from support.training import TINY, UNCOMPILED, Harm, pack_folder

RESUMED = dataclasses.replace(UNCOMPILED, resume=True)


@pytest.fixture(scope="module")
def unbroken(faces, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    training.train(faces, TINY, folder, UNCOMPILED)
    return folder


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(1)
    metadata = {"network": "student", "points": 98, "size": 32, "stride": 4}
    save(tmp_path / "net", Checkpoint(build("student", 98).state_dict(), metadata, {}, {}))
    return tmp_path / "net.safetensors"


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    """Everything in a checkpoint, by part and name."""
    found = load(folder / name)
    parts = {"weights": found.weights, "optimizer": found.optimizer, "running": found.training_weights}
    return {f"{part}/{key}": value for part, values in parts.items() for key, value in values.items()}


def losses(run: Path) -> list[tuple[str, str]]:
    """The steps and mean losses in the log of a run."""
    return [(row["step"], row["loss"]) for row in csv.DictReader((run / "log.csv").read_text().splitlines())]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def test_checkpoint_round_trip(tmp_path, checkpoint):
    torch.manual_seed(1)
    network = build("student", 98).eval()
    loaded, metadata = load_network(checkpoint)
    assert metadata["size"] == 32
    assert json.loads(checkpoint.with_suffix(".json").read_text()) == metadata
    assert_same(network.state_dict(), loaded.state_dict())
    assert not loaded.training
    assert not list(tmp_path.glob("*.part"))


def test_checkpoint_backend_equals_the_network(checkpoint):
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with CheckpointBackend(checkpoint) as backend:
        points, scores = backend.predict(crops)
        assert backend.size == 32
        assert backend.predict(crops[:0])[0].shape == (0, 98, 2)
    wanted, _ = DecodingNetwork(load_network(checkpoint)[0], 4).eval()(torch.from_numpy(crops))
    np.testing.assert_allclose(points, wanted.detach(), atol=1e-5)
    assert scores.shape == (3, 98)


def test_full_disk_is_one_line_and_keeps_the_former_checkpoint(tmp_path, checkpoint, monkeypatch):
    def fill(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    before = checkpoint.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(InputError, match=r"net\.safetensors: cannot be written \(No space left on device\)"):
        save(checkpoint, Checkpoint({}, {}, {}, {}))
    assert checkpoint.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("kept", [0, 7, 1000, -1])
def test_truncated_checkpoint_is_refused(checkpoint, kept):
    checkpoint.write_bytes(checkpoint.read_bytes()[:kept])
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        load_network(checkpoint)


def test_checkpoint_of_another_network_is_refused(tmp_path, checkpoint):
    tensors = load(checkpoint).weights
    for metadata, why in (
        ({"network": "hrnet_w18", "points": 98, "size": 32}, "do not fit the network hrnet_w18"),
        ({"network": "student", "points": 68, "size": 32}, "do not fit the network student"),
        ({"network": "resnet", "points": 98, "size": 32}, "unknown network 'resnet'"),
        ({"points": 98}, "lacks network, size"),
    ):
        save(tmp_path / "other", Checkpoint(tensors, metadata, {}, {}))
        with pytest.raises(ModelError, match=why):
            load_network(tmp_path / "other.safetensors")


def test_safetensors_file_that_is_no_checkpoint_is_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelError, match="not a checkpoint of canthus"):
        load_network(tmp_path / "foreign.safetensors")
    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors", metadata={"facts": "{broken"})
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        load_network(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.safetensors"])
def test_pickle_is_refused_and_not_executed(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    with pytest.raises(ModelError, match=name):
        load_network(tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_error_names_a_missing_checkpoint(tmp_path):
    with pytest.raises(ModelError, match=r"last\.safetensors: no such file"):
        load(tmp_path / "last")


def test_restored_optimizer_continues_exactly_in_either_memory_layout():
    def begin() -> tuple[torch.nn.Module, torch.optim.AdamW]:
        torch.manual_seed(0)
        network = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
        return network, torch.optim.AdamW(network.parameters(), 1e-2, fused=True)

    def step(network: torch.nn.Module, optimizer: torch.optim.AdamW) -> None:
        optimizer.zero_grad()
        network(torch.arange(4 * 36.0).view(1, 4, 6, 6).sin()).square().mean().backward()
        optimizer.step()

    one, first = begin()
    for _ in range(3):
        step(one, first)
    other, second = begin()
    other.load_state_dict(one.state_dict())
    plain = {name: value.contiguous().clone() for name, value in flatten_optimizer(first).items()}
    restore_optimizer(second, plain)
    step(one, first)
    step(other, second)
    assert_same(one.state_dict(), other.state_dict())


def test_run_writes_recipe_log_and_checkpoints(unbroken):
    assert {path.name for path in unbroken.iterdir()} == {
        "recipe.json", "log.csv", "best.json", "best.safetensors", "last.json", "last.safetensors",
    }  # fmt: skip
    assert load_recipe(unbroken / "recipe.json") == TINY
    rows = list(csv.DictReader((unbroken / "log.csv").read_text().splitlines()))
    steps = [int(row["step"]) for row in rows]
    assert steps[-1] == load(unbroken / "last").metadata["step"]
    assert len(steps) >= 3
    assert all(float(row["images_per_second"]) > 0 and 0 <= float(row["waited"]) <= 1 for row in rows)
    losses = [float(row["loss"]) for row in rows]
    assert losses[-1] < losses[0]
    best = load(unbroken / "best")
    assert not best.optimizer
    assert best.metadata["best"] == pytest.approx(min(float(row["held_out_nme"]) for row in rows), abs=1e-3)
    assert load(unbroken / "last").metadata["best"] == best.metadata["best"]
    assert best.metadata["calibration"][0] > 0
    assert "calibration" not in load(unbroken / "last").metadata


def test_without_held_out_faces_the_best_checkpoint_is_the_last_or_chosen_on_another_pack(faces, unbroken, tmp_path):
    every = change(TINY, {"held_out": 0, "epochs": 1.0})
    training.train(faces, every, tmp_path / "last", UNCOMPILED)
    best, last = load(tmp_path / "last" / "best"), load(tmp_path / "last" / "last")
    assert_same(best.weights, last.weights)
    assert best.metadata["best"] is None
    assert "calibration" not in best.metadata  # no validation faces
    chosen = change(every, {"held_out": 4, "choose_on": pack_folder(faces)})
    training.train(faces, chosen, tmp_path / "chosen", UNCOMPILED)
    assert load_recipe(tmp_path / "chosen" / "recipe.json").held_out == 0  # all faces are for training
    (row,) = csv.DictReader((tmp_path / "chosen" / "log.csv").read_text().splitlines())
    assert load(tmp_path / "chosen" / "best").metadata["best"] == pytest.approx(float(row["held_out_nme"]), abs=1e-3)
    assert_same(weights(tmp_path / "chosen"), weights(tmp_path / "last"))


def stop_after_first_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C in the first step after the first epoch."""
    factor, epoch_ends = run_module.learning_rate_factor, run_module.Run.epoch_is_complete
    completed = []

    def note(run: run_module.Run) -> bool:
        completed.append(ends := epoch_ends(run))
        return ends

    def press_ctrl_c(*arguments: object) -> float:
        if any(completed):
            signal.raise_signal(signal.SIGINT)
        return factor(*arguments)

    monkeypatch.setattr(run_module.Run, "epoch_is_complete", note)
    monkeypatch.setattr(run_module, "learning_rate_factor", press_ctrl_c)


@pytest.fixture
def stopped_run(faces, tmp_path, monkeypatch) -> Path:
    """A run that chooses its checkpoint on another pack, stopped after its first epoch."""
    recipe = change(TINY, {"held_out": 0, "choose_on": pack_folder(faces), "learning_rate": 1e-4, "epochs": 2.0})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after_first_epoch(patched)
        training.train(faces, recipe, tmp_path / "run", UNCOMPILED)
    assert load(tmp_path / "run" / "best").metadata["best"] is not None
    return tmp_path / "run"


def test_resume_without_choose_on_validates_on_the_same_pack(faces, stopped_run, tmp_path):
    words = [pack_folder(faces), "-o", str(stopped_run), "--no-compile"]
    assert command([*words, "--resume"]) == 0
    errors = [float(row["held_out_nme"]) for row in csv.DictReader((stopped_run / "log.csv").read_text().splitlines())]
    assert len(errors) == 2
    assert np.isfinite(errors).all()
    best = load(stopped_run / "best")
    assert best.metadata["best"] == pytest.approx(min(errors), abs=1e-3)
    training.train(faces, load_recipe(stopped_run / "recipe.json"), tmp_path / "unbroken", UNCOMPILED)
    assert_same(weights(stopped_run, "best"), weights(tmp_path / "unbroken", "best"))


def test_resume_never_replaces_a_validated_best_checkpoint_by_one_without_validation(faces, stopped_run):
    """As with a run of version 0.1, whose recipe.json does not name the pack."""
    recipe = dataclasses.replace(load_recipe(stopped_run / "recipe.json"), choose_on="")
    before = (stopped_run / "best.safetensors").read_bytes(), (stopped_run / "last.safetensors").read_bytes()
    with pytest.raises(ModelError, match=r"last\.safetensors: its best checkpoint was chosen on .* --choose-on PACK"):
        training.train(faces, recipe, stopped_run, RESUMED)
    assert ((stopped_run / "best.safetensors").read_bytes(), (stopped_run / "last.safetensors").read_bytes()) == before


def test_resume_of_a_run_of_version_0_1_takes_the_pack_from_choose_on(faces, stopped_run):
    recipe = json.loads((stopped_run / "recipe.json").read_text())
    del recipe["choose_on"]
    (stopped_run / "recipe.json").write_text(json.dumps(recipe))
    for name in ("best", "last"):
        checkpoint = load(stopped_run / name)
        metadata = {key: value for key, value in checkpoint.metadata.items() if key != "validation_faces"}
        save(stopped_run / name, dataclasses.replace(checkpoint, metadata=metadata))
    words = [pack_folder(faces), "-o", str(stopped_run), "--no-compile", "--resume"]
    with pytest.raises(ModelError, match="--choose-on PACK"):
        command(words)
    assert command([*words, "--choose-on", pack_folder(faces)]) == 0
    assert load_recipe(stopped_run / "recipe.json").choose_on == str(Path(pack_folder(faces)).resolve())


def test_resume_with_another_validation_pack_or_without_it_is_one_line(faces, stopped_run, tmp_path):
    write_shard(tmp_path / "other", 5)
    write_pack([open_set(tmp_path / "other")], tmp_path / "other_pack", 48)
    words = [pack_folder(faces), "-o", str(stopped_run), "--no-compile", "--resume"]
    before = {path.name: path.read_bytes() for path in stopped_run.iterdir()}
    with pytest.raises(ModelError, match="chosen on other validation faces"):
        command([*words, "--choose-on", str(tmp_path / "other_pack")])
    gone = change(load_recipe(stopped_run / "recipe.json"), {"choose_on": str(tmp_path / "gone")})
    with pytest.raises(InputError, match=r"gone.*; this pack chooses the best checkpoint, name it with --choose-on"):
        training.train(faces, gone, stopped_run, RESUMED)
    assert {path.name: path.read_bytes() for path in stopped_run.iterdir()} == before


def test_resume_accepts_the_validation_pack_in_its_new_place(faces, stopped_run, tmp_path):
    shutil.copytree(pack_folder(faces), tmp_path / "moved")
    words = [pack_folder(faces), "-o", str(stopped_run), "--no-compile", "--resume"]
    assert command([*words, "--choose-on", str(tmp_path / "moved")]) == 0
    assert load_recipe(stopped_run / "recipe.json").choose_on == str(tmp_path / "moved")


def test_run_with_held_out_faces_refuses_choose_on_at_resume(faces, unbroken):
    words = [pack_folder(faces), "-o", str(unbroken), "--no-compile", "--resume"]
    with pytest.raises(InputError, match=r"on held-out faces \(held_out=3\); resume it without --choose-on"):
        command([*words, "--choose-on", pack_folder(faces)])


def test_ema_decay_0_saves_the_weights_themselves(faces, tmp_path):
    training.train(faces, change(TINY, {"ema_decay": 0, "epochs": 1.0}), tmp_path, UNCOMPILED)
    last = load(tmp_path / "last")
    assert_same(last.weights, last.training_weights)


def test_shortest_run_has_one_step(faces, tmp_path):
    assert training.train(faces, change(TINY, {"epochs": 0.01}), tmp_path, UNCOMPILED).name == "best"
    assert load(tmp_path / "best").metadata["step"] == 1


def test_run_is_reproducible(faces, unbroken, tmp_path):
    training.train(faces, TINY, tmp_path, UNCOMPILED)
    assert_same(weights(tmp_path), weights(unbroken))


@pytest.mark.parametrize("at", [1, 7])
def test_run_stopped_by_ctrl_c_resumes_to_exactly_the_same_weights(faces, unbroken, tmp_path, monkeypatch, capfd, at):
    schedule = run_module.learning_rate_factor

    def press_ctrl_c(step: int, *rest: object) -> float:
        if step == at:
            signal.raise_signal(signal.SIGINT)
        return schedule(step, *rest)

    monkeypatch.setattr(run_module, "learning_rate_factor", press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        training.train(faces, TINY, tmp_path, UNCOMPILED)
    assert load(tmp_path / "last").metadata["step"] == at + 1  # the step was finished
    assert capfd.readouterr().err.count("ending after this step") == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    training.train(faces, TINY, tmp_path, RESUMED)
    assert_same(weights(tmp_path), weights(unbroken))
    assert_same(weights(tmp_path, "best"), weights(unbroken, "best"))
    assert losses(tmp_path) == losses(unbroken)  # those of the steps before Ctrl-C too


def test_resume_of_a_finished_run_changes_nothing(faces, unbroken):
    before = weights(unbroken)
    training.train(faces, TINY, unbroken, RESUMED)
    assert_same(weights(unbroken), before)


def test_run_works_outside_the_main_thread(faces, tmp_path):
    worker = threading.Thread(
        target=training.train,
        args=(faces, change(TINY, {"epochs": 0.5}), tmp_path, UNCOMPILED),
    )
    worker.start()
    worker.join(60)
    assert (tmp_path / "best.safetensors").is_file()


def test_resume_refuses_another_network_and_checkpoints_without_optimizer(faces, unbroken, tmp_path):
    for path in unbroken.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = change(TINY, {"network": "hrnet_w18"})
    with pytest.raises(ModelError, match="another network"):
        training.train(faces, other, tmp_path, RESUMED)
    renamed = dataclasses.replace(faces.scheme, names=tuple(f"point {number}" for number in range(98)))
    with pytest.raises(ModelError, match=r"other points than the pack has \(WFLW, WFLW; different: names\)"):
        training.train(dataclasses.replace(faces, scheme=renamed), TINY, tmp_path, RESUMED)
    (tmp_path / "last.safetensors").write_bytes((tmp_path / "best.safetensors").read_bytes())
    with pytest.raises(ModelError, match="use `last`"):
        training.train(faces, TINY, tmp_path, RESUMED)


@pytest.mark.parametrize(
    ("name", "value"), [("step", "x"), ("losses_summed", -3), ("loss_sum", None), ("averaged", 1.5), ("best", [1])]
)
def test_resume_with_damaged_metadata_is_one_line(faces, unbroken, tmp_path, name, value):
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    checkpoint = load(tmp_path / "last")
    save(tmp_path / "last", dataclasses.replace(checkpoint, metadata={**checkpoint.metadata, name: value}))
    with pytest.raises(
        ModelError, match=rf"last\.safetensors: its metadata is damaged: {name}: expected .*; start a new run"
    ):
        training.train(faces, TINY, tmp_path, RESUMED)


def test_loss_that_is_not_finite_ends_the_run_without_a_checkpoint(faces, tmp_path):
    wild = change(TINY, {"learning_rate": 1e30, "warm_up": 0})
    with pytest.raises(ModelError, match="lower learning_rate"):
        training.train(faces, wild, tmp_path, UNCOMPILED)
    assert not (tmp_path / "best.safetensors").exists()


def test_validation_error_that_is_not_finite_ends_the_run_without_a_checkpoint(faces, tmp_path):
    points = faces.points.copy()
    points[:, wflw.OUTER_CANTHI] = 24
    with pytest.raises(ModelError, match="validation faces is not finite"), np.errstate(divide="ignore"):
        training.train(dataclasses.replace(faces, points=points), TINY, tmp_path, UNCOMPILED)
    assert not list(tmp_path.glob("*.safetensors"))


def test_recipe_round_trip_and_file_with_some_values(tmp_path):
    path = tmp_path / "recipe.json"
    recipe = change(
        default_recipe("hrnet_w18"), {"dataset_weights": [["wflw", 3]], "augmentation.scale": [0.7, 1.3], "seed": 4}
    )
    assert recipe.dataset_weights == (("wflw", 3.0),)
    recipe.save(path)
    assert load_recipe(path) == recipe
    path.write_text('{"network": "hrnet_w18", "batch": 16, "augmentation": {"blur_p": 1}}')
    assert load_recipe(path) == change(default_recipe("hrnet_w18"), {"batch": 16, "augmentation.blur_p": 1.0})


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("batches", 4, "a recipe has no 'batches'"),
        ("occluder_p", 0.3, "augmentation.occluder_p"),
        ("augmentation.spin", 4, "a recipe has no 'augmentation.spin'"),
        ("augmentation", {}, r"augmentation is a table of values; change one of them: augmentation\.NAME"),
        ("batch", "many", "batch: expected int, got 'many'"),
        ("batch", 4.5, "expected int, got 4.5"),
        ("batch", True, "expected int, got True"),
        ("batch", 0, "batch must be at least 1"),
        ("size", 100, "multiple of 32"),
        ("network", "resnet", "one of 'student', 'student_stride8', 'student_lean', 'hrnet_w18'"),
        ("learning_rate", -1.0, "must be positive"),
        ("dataset_weights", [["wflw"]], r"dataset_weights\[0\]: expected a list of 2"),
        ("augmentation.scale", [2, 1], r"scale must be \[lowest, highest\]"),
    ],
)
def test_error_names_a_value_that_does_not_fit(tmp_path, name, value, why):
    with pytest.raises(InputError, match=why):
        change(Recipe(), {name: value})


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"augmentation": 3}', '{"batch": "x"}'])
def test_error_names_a_file_that_is_no_recipe(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=r"r\.json"):
        load_recipe(tmp_path / "r.json")


def test_log_has_errors_by_pose_except_in_the_file_of_an_older_version(tmp_path):
    poses = {"frontal": 2.5, "half": 3.5, "profile": float("nan")}
    rows = [Row(step, 1.0, 0.5, 3.0, 100.0, 0.0, by_pose) for step, by_pose in ((10, poses), (20, {}))]
    for row in rows:
        Log(tmp_path / "new").write(row)
    first, second = csv.DictReader((tmp_path / "new" / "log.csv").read_text().splitlines())
    assert [first[f"held_out_{pose}"] for pose in poses] == ["2.5", "3.5", "nan"]
    assert (second["step"], second["held_out_half"]) == ("20", "nan")
    for row in reversed(rows):  # the columns of the first row stay
        Log(tmp_path / "old").write(row)
    lines = (tmp_path / "old" / "log.csv").read_text().splitlines()
    assert lines[0] == "step,seconds,loss,held_out_nme,images_per_second,waited"
    assert lines[1:] == ["20,1.0,0.5,3.0,100.0,0.0", "10,1.0,0.5,3.0,100.0,0.0"]


def test_ctrl_c_that_also_ends_the_compiler_stops_the_run():
    failed = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})
    stop = training._signals_after_step
    with pytest.raises(KeyboardInterrupt), stop(World(torch.device("cpu"))) as stopped:
        stopped.set()
        raise failed
    with pytest.raises(failed), stop(World(torch.device("cpu"))):
        raise failed


def test_second_ctrl_c_ends_at_once(faces, tmp_path, monkeypatch):
    def press_twice(*_: int) -> float:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("still running")

    monkeypatch.setattr(run_module, "learning_rate_factor", press_twice)
    with pytest.raises(KeyboardInterrupt):
        training.train(faces, TINY, tmp_path, UNCOMPILED)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not (tmp_path / "last.safetensors").exists()


def test_tensorboard_gets_scalars_and_images_of_faces(faces, tmp_path, monkeypatch):
    written: list[tuple[str, int, object]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert Path(folder) == tmp_path

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step, value))

        def add_image(self, name: str, picture: np.ndarray, step: int, dataformats: str) -> None:
            written.append((name, step, (picture.shape, dataformats)))

        def flush(self) -> None: ...

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    training.train(faces, change(TINY, {"epochs": 1.0}), tmp_path, TrainOptions(compile=False, tensorboard=True))
    names = {name for name, _, _ in written}
    assert names == {"loss", "held_out_nme", "images_per_second", "waited", "held-out faces"}
    assert next(value for name, _, value in written if name == "held-out faces") == ((32, 6 * 32, 3), "HWC")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(BackendError, match="pip install tensorboard"):
        training.train(faces, TINY, tmp_path, TrainOptions(compile=False, tensorboard=True))


def test_predicted_points_are_drawn_over_true_points():
    crops, places = np.zeros((2, 32, 32, 3), np.uint8), np.full((2, 98, 2), 16.0)
    image = draw_crops(crops, np.stack([places[0], places[0] + 8]), places)
    assert image.shape == (32, 64, 3)
    assert not crops.any()
    assert image[16, 16].tolist() == image[24, 56].tolist() == [60, 255, 60]
    assert image[16, 48].tolist() == [255, 60, 60]
