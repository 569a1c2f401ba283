"""The steps of `canthus data` that measure; `calibrate` is tested in tests/runtime/test_calibration.py."""

import numpy as np
import pytest

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.types import FaceBox
from canthus.trainer.commands.data import command
from support.shards import write_shard
from support.training import pack_folder


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_batch_speed_prints_images_per_second(faces, capsys):
    assert command(["batch-speed", pack_folder(faces), "--recipe", "student", "--steps", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip().startswith("a thread: augmented on the CPU: ")
    assert all(line.count("images/s") == 3 for line in lines)


def test_fit_boxes_prints_the_constants_of_geometry(tmp_path, monkeypatch, capsys):
    class WholeImage:
        """A detector whose box is the image inside its gray padding."""

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def detect(self, image):
            rows, columns = np.nonzero((image != image[0, 0]).any(-1))
            return [FaceBox(columns.min(), rows.min(), columns.max(), rows.max(), 0.9)]

    write_shard(tmp_path / "shard", 4)
    monkeypatch.setattr("canthus.runtime.detector.Detector", WholeImage)
    assert command(["fit-boxes", str(tmp_path / "shard"), "--every", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 faces, 0 not detected")
    assert [line.split(" = ")[0] for line in lines[1:]] == [
        "BOX_SCALE",
        "BOX_SHIFT_Y",
        "(shift to the right, expected 0)",
    ]
    with pytest.raises(SystemExit, match="2"):
        command(["fit-boxes", str(tmp_path / "shard"), "--every", "0"])


def test_calibrate_names_a_missing_checkpoint_or_recipe(tmp_path):
    checkpoint = tmp_path / "best.safetensors"
    with pytest.raises(ModelError, match=r"best\.safetensors: no such file"):
        command(["calibrate", str(checkpoint), str(tmp_path)])
    checkpoint.touch()
    with pytest.raises(InputError, match=r"recipe\.json: no such file; name the recipe of the run: --recipe"):
        command(["calibrate", str(checkpoint), str(tmp_path)])
