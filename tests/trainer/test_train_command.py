"""`canthus train` on the command line: trains, refuses, resumes, starts again."""

import contextlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from canthus.runtime.errors import BackendError, CanthusError, InputError
from canthus.trainer import run as run_module
from canthus.trainer import train as training
from canthus.trainer.commands.evaluate import command as evaluate
from canthus.trainer.commands.train import _crop_problem as crop_problem
from canthus.trainer.commands.train import command
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.labelled import is_held_out
from canthus.trainer.packs.pack import write_pack
from canthus.trainer.parallel import World
from canthus.trainer.recipe import Recipe, find_recipe, load_recipe
from support.shards import write_shard
from support.training import pack_folder

FEW = [word for one in ("size=32", "batch=4", "epochs=0.5", "held_out=3") for word in ("--set", one)]


@pytest.fixture
def words(faces, tmp_path) -> list[str]:
    return [pack_folder(faces), "-o", str(tmp_path / "run"), "--no-compile"]


def test_train_command_trains_refuses_an_existing_run_and_resumes(faces, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("canthus.trainer.commands.train._has_compiler", lambda: False)
    pack, run = pack_folder(faces), str(tmp_path / "my run")
    settings = [f"{n}={v}" for n, v in (("size", 32), ("batch", 4), ("epochs", 0.5), ("held_out", 3))]
    words = [pack, "-o", run, *(word for one in settings for word in ("--set", one))]
    assert command(words) == 0
    assert f"canthus eval --model '{run}/best.safetensors' --data SET\n" in capsys.readouterr().out
    assert load_recipe(tmp_path / "my run" / "recipe.json").epochs == 0.5
    with pytest.raises(InputError, match="--resume continues it, --overwrite replaces it"):
        command(words)
    assert command([pack, "-o", run, "--resume"]) == 0
    assert command([*words, "--overwrite"]) == 0
    assert len((tmp_path / "my run" / "log.csv").read_text().splitlines()) == 2
    for wrong in (["--resume", "--set", "batch=4"], ["--network", "resnet"], ["--set", "batch"]):
        with pytest.raises(SystemExit, match="2"):
            command([pack, "-o", run, *wrong])


@pytest.mark.parametrize("recipe", ["student", "wflw-published"])
def test_a_small_pack_is_trained_for_enough_steps(recipe, faces, words, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(training, "train", lambda pack, recipe, *_: seen.append(recipe) or tmp_path / "best")
    assert command([*words, "--recipe", recipe]) == 0
    assert "200 steps), not " in capsys.readouterr().out
    for more in (["--set", "epochs=7"], ["--minutes", "1"]):
        command([*words, "--recipe", recipe, *more])
    fitted, given, limited = seen
    before = find_recipe(recipe)
    trained_on = sum(not (fitted.held_out and is_held_out(name, fitted.held_out)) for name in faces.names)
    assert 200 <= fitted.epochs * trained_on / fitted.batch < 202
    assert fitted.milestones[0] / fitted.epochs == pytest.approx(before.milestones[0] / before.epochs)
    assert (given.epochs, limited.epochs) == (7, before.epochs)


def test_train_command_prints_how_to_resume_after_ctrl_c(faces, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"

    def stopped(*_, **__):
        raise KeyboardInterrupt

    def saved(*_, **__):
        run.mkdir()
        (run / "last.safetensors").touch()
        raise KeyboardInterrupt

    pack = pack_folder(faces)
    for train, expected in (
        (stopped, "nothing was saved"),
        (saved, f"canthus train {pack} -o {run} --resume"),
    ):
        monkeypatch.setattr(training, "train", train)
        assert command([pack, "-o", str(run)]) == 130
        assert expected in capsys.readouterr().err


def test_train_command_needs_a_pack_and_to_resume_a_run(faces, tmp_path):
    with pytest.raises(InputError, match="canthus data prepare"):
        command([str(tmp_path), "-o", str(tmp_path / "run")])
    with pytest.raises(InputError, match=r"not a run .* leave out --resume"):
        command([pack_folder(faces), "-o", str(tmp_path / "run"), "--resume"])


def test_run_that_failed_before_its_first_checkpoint_can_be_started_again(words, tmp_path, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as failing:
        failing.setattr(run_module, "normalize", fail)
        with pytest.raises(BackendError, match=r"--set batch=2"):
            command([*words, *FEW])
    assert (tmp_path / "run" / "recipe.json").is_file()
    assert command([*words, *FEW, "--set", "batch=2"]) == 0
    assert load_recipe(tmp_path / "run" / "recipe.json").batch == 2


def test_overwrite_deletes_files_of_the_former_run_only(words, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("events.out.tfevents.1.host", "log.csv", "best.onnx"):
        (tmp_path / "run" / name).touch()
    assert command([*words, *FEW, "--overwrite"]) == 0
    assert not (tmp_path / "run" / "events.out.tfevents.1.host").exists()
    assert (tmp_path / "run" / "best.onnx").exists()
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 2


def test_overwrite_keeps_the_former_run_if_the_new_one_cannot_start(words, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    (tmp_path / "run").mkdir()
    former = [tmp_path / "run" / name for name in ("log.csv", "best.safetensors", "last.safetensors", "recipe.json")]
    for path in former:
        path.touch()
    for wrong in (["--pretrained", "nowhere.pth"], ["--teacher", "nowhere.safetensors"], ["--tensorboard"]):
        with pytest.raises(CanthusError, match=r"no such file|not installed"):
            command([*words, *FEW, "--overwrite", *wrong])
        assert all(path.is_file() and not path.stat().st_size for path in former)


def test_failed_or_missing_compiler_is_reported_in_one_line(words, monkeypatch, capsys):
    class InductorError(RuntimeError):
        pass

    def fail(*_: object) -> None:
        raise InductorError("InvalidCxxCompiler: no working C++ compiler\n\nSet TORCH_LOGS ...")

    def cut_short(*_: object) -> None:
        raise ImportError("main.so: file too short")

    InductorError.__module__ = "torch._inductor.exc"
    without = [*(word for word in words if word != "--no-compile"), *FEW]
    monkeypatch.setattr("torch.compile", lambda _: fail)
    monkeypatch.setattr("canthus.trainer.commands.train._has_compiler", lambda: True)
    with pytest.raises(BackendError, match=r"failed \(InvalidCxxCompiler: no working C\+\+ compiler\).* --no-compile"):
        command(without)
    monkeypatch.setattr("torch.compile", lambda _: cut_short)
    with pytest.raises(BackendError, match=r"failed \(main\.so: file too short\).* --no-compile"):
        command(without)
    capsys.readouterr()
    monkeypatch.setattr("canthus.trainer.commands.train._has_compiler", lambda: False)
    assert command(without) == 0
    assert "needs a C++ compiler" in capsys.readouterr().out


def test_gpu_without_bf16_gets_the_advice_to_use_fp32(words, monkeypatch, caplog):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "join_processes", lambda: contextlib.nullcontext(World(torch.device("cuda"))))
    monkeypatch.setattr(run_module, "load_to_gpu", stop)
    for able, settings, advised in ((False, [], True), (True, [], False), (False, ["--set", "precision=fp32"], False)):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda _, able=able: able)
        assert command([*words, *settings]) == 130
        assert ("--set precision=fp32" in caplog.text) == advised
        caplog.clear()


@pytest.mark.parametrize(("rank", "ended", "reported"), [(0, False, True), (1, True, False), (1, False, True)])
def test_error_of_all_torchrun_processes_is_reported_by_the_first(words, monkeypatch, rank, ended, reported):
    def sleep(_: float) -> None:
        if ended:
            raise KeyboardInterrupt

    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr("canthus.trainer.commands.shared.time", SimpleNamespace(sleep=sleep))  # not of other threads
    with pytest.raises(InputError if reported else SystemExit, match="expected a finite number" if reported else "1"):
        command([*words, "--set", "learning_rate=oops"])
    with pytest.raises(InputError if reported else SystemExit, match="no such file" if reported else "1"):
        evaluate(["--wflw", "nowhere"])


def test_batch_that_gpus_cannot_split_starts_no_processes(words, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    with pytest.raises(InputError, match="a batch of 32 cannot be split over 3 processes"):
        command([*words, "--recipe", "student", "--gpus", "3"])


@pytest.mark.parametrize(("made_for", "warns"), [("student", True), ("wflw-hrnet", False)])
def test_train_warns_about_crops_made_for_another_recipe(tmp_path, made_for, warns):
    write_shard(tmp_path / "shard", 4)
    how, hrnet = (find_recipe(name).augmentation for name in (made_for, "wflw-hrnet"))
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64, how).pack
    assert ("margin of the crops is too small" in crop_problem(pack, Recipe(size=32, augmentation=hrnet))) == warns
    assert not crop_problem(pack, Recipe(size=32))
    assert "(128 px) and will be enlarged" in crop_problem(pack, Recipe())


def test_help_of_commands_imports_nothing_heavy():
    heavy = "{'torch', 'cv2', 'numpy', 'openvino', 'mediapipe', 'tqdm'}"
    code = (
        "import sys\nfrom canthus.trainer.commands import data, evaluate, label, session, train\n"
        "for one in (data.command, evaluate.command, label.command, session.command, train.command):\n"
        "    try: one(['--help'])\n"
        "    except SystemExit as end: assert not end.code\n"
        f"loaded = {heavy} & set(sys.modules)\nassert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("examples:") == 5
