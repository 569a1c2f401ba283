"""What a recorded trace must not lose, and numbers in one that no camera and tracker give."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.schemes import WFLW
from canthus.runtime.trace import Recorder, complete_trace
from canthus.runtime.trace.format import _check_chunk, make_header, read_chunks, read_header, versions_in_use
from canthus.runtime.trace.replay import _Recorded
from canthus.runtime.types import Frame, Roi
from fuzz.results import make_traces


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "raw.trace"
    path.write_bytes(make_traces(tmp_path)["raw.trace"])
    return path


def test_predictions_that_are_replaced_afterwards_are_recorded_as_they_were(tmp_path):
    points, scores = np.ones((1, 98, 2), np.float32), np.ones((1, 98), np.float32)
    with Recorder(tmp_path / "t.trace") as recorder:
        recorder.start_frame(Frame(np.zeros((8, 8, 3), np.uint8), 0, 0.0))
        recorder._add_prediction([Roi(4.0, 4.0, 4.0)], points, scores)
        points[:] = scores[:] = np.nan
        assert np.isfinite(recorder._open["points"]).all()
        assert np.isfinite(recorder._open["scores"]).all()


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_pixels_without_width_are_damage(trace, value):
    chunk = next(iter(read_chunks(trace)))
    _check_chunk(chunk)
    chunk["pixel_aspect"][0] = value
    with pytest.raises(ValueError, match="a pixel aspect is not above 0"):
        _check_chunk(chunk)


def test_part_with_another_checksum_is_not_recovered(trace):
    content = bytearray(trace.read_bytes())
    content[content.index(b"000000/points.npy") - 30 + 14] ^= 1
    trace.write_bytes(content)
    assert complete_trace(trace) is False


def test_number_of_regions_must_be_the_recorded_one(tmp_path):
    chunk = {name: np.zeros(1, int) for name in ("index", "detections", "regions_seen")}
    chunk |= {"predictions": np.ones(1, int), "boxes_found": np.zeros(0, int), "regions": np.zeros((0, 4))}
    recorded = _Recorded(tmp_path / "t.trace", WFLW)
    recorded.open(chunk | {"points": np.zeros((0, 98, 2)), "scores": np.zeros((0, 98))})
    recorded.start_frame(0)
    with pytest.raises(InputError, match=r"t\.trace: in frame 0 the tracker looks at other regions"):
        recorded.predict_regions(None, [Roi(1.0, 2.0, 3.0)])


def test_a_trace_without_one_of_its_parts_is_damaged(trace, tmp_path):
    """Else a trace without any part had the same numbers."""
    other = tmp_path / "other.trace"
    with zipfile.ZipFile(trace) as whole, zipfile.ZipFile(other, "w") as archive:
        for name in whole.namelist():
            if not name.startswith("000000/"):
                archive.writestr(name, whole.read(name))
    with pytest.raises(InputError, match=r"other\.trace: is damaged \(part 000000 is missing\)"):
        list(read_chunks(other))


def test_a_replay_names_the_versions_that_differ(trace):
    header = read_header(trace)
    assert versions_in_use(make_header(header.processing, "", "", WFLW)) == ""
    assert versions_in_use(replace(header, numpy="0", canthus="0")).startswith("canthus ")
    assert f"numpy {np.__version__}" in versions_in_use(replace(header, numpy="0"))
