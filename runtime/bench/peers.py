"""`canthus bench peers`: the time of canthus and of what else one could use, on the same frames in the same minutes."""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.bench.machine import describe_machine
from canthus.runtime.bench.peer_environments import Candidate, make_environment
from canthus.runtime.bench.peer_process import PeerProcess
from canthus.runtime.bench.peer_videos import describe_videos, measure_videos, summarize_videos
from canthus.runtime.errors import CanthusError, InputError
from canthus.runtime.options import command_parser, positive_int

if TYPE_CHECKING:
    from canthus.runtime.bench.peer_accuracy import LabelledFace

DESCRIPTION = """Measure the time per frame of canthus and of other face landmark software, interleaved.

Each candidate runs in a process of its own, and gets the same decoded frames of a video in short turns, in random
order. Its time is that of its whole way from a frame to the points of one face, its own detection and tracking
included. All get the same number of threads, and on Linux as many cores. The table has the ratio of the median times
to those of MediaPipe Face Mesh, with a 95 % interval (bootstrap over the turns).

MediaPipe 0.10.21 and dlib are installed once, into environments in the user's cache folder (up to 1 GB). A candidate
that cannot be installed or opened is left out with one line. face-alignment is not included: it needs PyTorch and
downloads its networks when it runs."""

EXAMPLES = """examples:
  canthus bench peers -o peers.json                                   MediaPipe Face Mesh, with and without attention
  canthus bench peers -o peers.json --clip my.mp4 --threads 2         on your video, with two threads
  canthus bench peers -o peers.json --peer PFLD*.onnx lm_model3.onnx  and other networks
  canthus bench peers -o peers.json --video --threads 2               the frame rate of whole videos on two cores
  canthus bench peers -o peers.json --wflw WFLW                       and the errors of the inner points"""

BASE = "MediaPipe Face Mesh"
TURN = 10
"""Frames of a turn."""

RESAMPLES = 2000
"""Of the bootstrap."""


@dataclass(frozen=True)
class Row:
    """The result of one candidate."""

    name: str
    version: str
    median_ms: float
    p99_ms: float
    frames_with_faces: float  # share
    ratio: float | None  # of the median times, to the base; None if the base is missing
    ratio_low: float | None  # 95 % interval
    ratio_high: float | None
    error: float | None = None  # mean distance of the inner points in % of the inter-ocular distance


def command(arguments: list[str]) -> int:
    """Measure the time of canthus and of other face landmark software, interleaved."""
    args = _parser().parse_args(arguments)
    from canthus.runtime import sample
    from canthus.runtime.bench.peer_accuracy import read_faces
    from canthus.runtime.files import check_output, check_suffix, write_file

    check_suffix(args.output, (".json",), "format")
    check_output(args.output, args.overwrite)
    labelled = read_faces(args.wflw) if args.wflw else []
    machine = describe_machine()
    clip = args.clip or sample.CLIP
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "frames.npy"
        count = store_frames(clip, frames, 2 * TURN if args.smoke else args.frames)
        with opened(_candidates(args), frames, args.threads) as processes:
            turns = measure(processes, count, 1 if args.smoke else args.rounds)
            errors = _errors(processes, labelled, Path(folder))
            rows = summarize(processes, turns, errors)
            measured = measure_videos(processes, clip, 1 if args.smoke else args.rounds) if args.video else {}
            rates = summarize_videos(measured, BASE, bootstrap_ratio)
    report = {
        "machine": machine,
        "clip": clip.name,
        "threads": args.threads,
        "turn_frames": TURN,
        "base": BASE,
        "labelled_faces": len(labelled),
        "rows": [asdict(row) for row in rows],
        "videos": [rate._asdict() for rate in rates],
    }
    write_file(args.output, (json.dumps(report, indent=2) + "\n").encode())
    print(to_table(rows))
    if rates:
        print(describe_videos(rates))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("canthus bench peers", DESCRIPTION, EXAMPLES)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.json", help="write the result here")
    parser.add_argument("--clip", type=Path, metavar="VIDEO", help="the frames (default: the sample clip)")
    parser.add_argument("--model", nargs="+", default=["fast"], metavar="M", help="models of canthus (default: fast)")
    parser.add_argument("--peer", type=Path, nargs="+", default=[], metavar="FILE.onnx", help="other networks")
    parser.add_argument("--face-landmarker", type=Path, metavar="FILE.task", help="MediaPipe Face Landmarker's model")
    parser.add_argument("--dlib", type=Path, metavar="FILE.dat", help="dlib's shape predictor for 68 points")
    parser.add_argument("--no-mediapipe", action="store_true", help="leave MediaPipe Face Mesh out")
    parser.add_argument("--wflw", type=Path, metavar="DIR", help="WFLW: also measure the error of the inner points")
    parser.add_argument("--video", action="store_true", help="also measure from the file on: `canthus video --table`")
    parser.add_argument("--threads", type=positive_int, default=1, metavar="N", help="of each candidate (default: 1)")
    parser.add_argument("--frames", type=positive_int, default=120, metavar="N", help="of the video (default: 120)")
    parser.add_argument("--rounds", type=positive_int, default=3, metavar="N", help="over the frames (default: 3)")
    parser.add_argument("--smoke", action="store_true", help="measure a few frames only, to check that it works")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser


def _candidates(args: argparse.Namespace) -> list[Candidate]:
    candidates = [Candidate(f"canthus {Path(model).stem}", "canthus", model) for model in args.model]
    if not args.no_mediapipe:
        candidates += [
            Candidate(BASE, "face_mesh", "", "mediapipe"),
            Candidate("MediaPipe Face Mesh with attention", "face_mesh", "attention", "mediapipe"),
        ]
    if args.face_landmarker:
        candidates.append(
            Candidate("MediaPipe Face Landmarker", "face_landmarker", str(args.face_landmarker), "mediapipe")
        )
    if args.dlib:
        candidates.append(Candidate("dlib", "dlib", str(args.dlib), "dlib"))
    return candidates + [Candidate(path.stem, "onnx", str(path)) for path in args.peer]


def store_frames(clip: Path, file: Path, limit: int) -> int:
    """Decode the first frames of a video to a .npy file (N, H, W, 3) of whole turns; return their number.

    Raises InputError if the video has less frames than a turn.
    """
    from canthus.runtime.video_file import VideoFile

    with VideoFile(clip) as video:
        stored = None
        count = 0
        for frame in video:
            if stored is None:
                shape = (limit, *frame.image.shape)
                stored = np.lib.format.open_memmap(file, "w+", np.uint8, shape)  # type: ignore[no-untyped-call]
            if count == limit or frame.image.shape != stored.shape[1:]:
                break
            stored[count] = frame.image
            count += 1
    if count < TURN:
        raise InputError(f"{clip}: has {count} frames (expected at least {TURN})")
    return count - count % TURN


@contextlib.contextmanager
def opened(candidates: Sequence[Candidate], frames: Path, threads: int) -> Iterator[list[PeerProcess]]:
    """Start the processes of the candidates that can be installed and opened. The others are named on stderr."""
    with contextlib.ExitStack() as stack:
        processes = []
        for candidate in candidates:
            try:
                python = make_environment(candidate.environment) if candidate.environment else Path(sys.executable)
                processes.append(stack.enter_context(PeerProcess(candidate, python, frames, threads)))
            except CanthusError as error:
                print(f"canthus bench peers: {candidate.name} is left out: {error}", file=sys.stderr)
        yield processes


Turns = dict[str, list[dict[str, Any]]]
"""The answers of each candidate; those of one index are of the same frames, one soon after the other."""


def measure(processes: Sequence[PeerProcess], frames: int, rounds: int) -> Turns:
    """Let the processes take turns over the frames, in random order. The first turn is a warm-up and not kept."""
    from tqdm import tqdm

    rng = np.random.default_rng(0)
    turns: Turns = {process.name: [] for process in processes}
    for process in processes:
        process.ask({"first": 0, "end": TURN})
    starts = list(range(0, frames, TURN)) * rounds
    for first in tqdm(starts, "peers", unit="turn", disable=None, leave=False):
        for index in rng.permutation(len(processes)).tolist():
            answer = processes[index].ask({"first": first, "end": first + TURN})
            turns[processes[index].name].append(answer)
    return turns


def _errors(
    processes: Sequence[PeerProcess], labelled: "Sequence[LabelledFace]", folder: Path
) -> dict[str, list[float | None]]:
    """Return the error of each candidate on each labelled face."""
    from tqdm import tqdm

    from canthus.runtime.bench.peer_accuracy import error_percent
    from canthus.runtime.image_files import read_image

    errors: dict[str, list[float | None]] = {process.name: [] for process in processes}
    for face in tqdm(labelled, "errors", unit="face", disable=None, leave=False):
        image = folder / "image.npy"
        view, true = face.view(read_image(face.image))
        np.save(image, view)
        for process in processes:
            points = process.ask({"image": str(image)})["points"]
            errors[process.name].append(error_percent(points, true))
    return errors


def summarize(processes: Sequence[PeerProcess], turns: Turns, errors: dict[str, list[float | None]]) -> list[Row]:
    """Return a row for each candidate, the fastest first."""
    medians = {name: np.array([np.median(turn["seconds"]) for turn in answers]) for name, answers in turns.items()}
    # Only faces that all candidates with points find count, so that none gains from the hard ones that it misses.
    known = [values for values in errors.values() if any(value is not None for value in values)]
    common = [all(values[face] is not None for values in known) for face in range(len(known[0]) if known else 0)]
    rows = []
    for process in processes:
        name = process.name
        seconds = 1000 * np.concatenate([turn["seconds"] for turn in turns[name]])
        found = np.concatenate([turn["found"] for turn in turns[name]])
        ratio = bootstrap_ratio(medians[name], medians[BASE]) if BASE in medians else (None, None, None)
        own = [value for value, use in zip(errors[name], common, strict=False) if use and value is not None]
        rows.append(
            Row(
                name=name,
                version=process.version,
                median_ms=round(float(np.median(seconds)), 2),
                p99_ms=round(float(np.percentile(seconds, 99)), 2),
                frames_with_faces=round(float((found > 0).mean()), 3),
                ratio=ratio[0],
                ratio_low=ratio[1],
                ratio_high=ratio[2],
                error=round(float(np.mean(own)), 2) if own else None,
            )
        )
    return sorted(rows, key=lambda row: row.median_ms)


def bootstrap_ratio(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the ratio of the medians of two series (turns,), and its 95 % interval over resampled turns."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(one), (RESAMPLES, len(one)))
    ratios = np.median(one[chosen], axis=1) / np.median(other[chosen], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5)).tolist()
    return round(float(np.median(one) / np.median(other)), 3), round(low, 3), round(high, 3)


def to_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table of Markdown."""
    lines = [
        f"| candidate | ms per frame | 99 % | to {BASE} | 95 % | frames with a face | error % |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio, interval = "-", "-"
        if row.ratio is not None:
            ratio, interval = f"{row.ratio:.2f}", f"{row.ratio_low:.2f} to {row.ratio_high:.2f}"
        error = "-" if row.error is None else f"{row.error:.2f}"
        lines.append(
            f"| {row.name} | {row.median_ms:.2f} | {row.p99_ms:.2f} | {ratio} | {interval} "
            f"| {100 * row.frames_with_faces:.0f} % | {error} |"
        )
    return "\n".join(lines)
