"""What `canthus engine bench` found, for people and for machines, and which goals were met."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from canthus.runtime.extras import install_command

GROWTH = 4 * 2**20
"""Bytes that the host may take more over the long run. The device's free memory is everybody's: only what grows in
both halves of the run counts."""
ONE_FACE, SIXTEEN = 0.8, 4.0
"""Goals on an H100-class card: ms for one face, and how many times that for 16."""
OWN_SHARE = 0.1
"""Goal: crop and decode take at most this part of what the network takes."""

BESIDES = tuple(
    f"CANTHUS_REQUIRE_CUDA=1 {words}"
    for words in (
        "pytest -m cuda",
        "compute-sanitizer --error-exitcode 1 pytest tests/test_cuda_kernels.py -k on_a_gpu_crop",
        "compute-sanitizer --tool racecheck --error-exitcode 1 pytest tests/test_cuda_kernels.py -k on_a_gpu_crop",
    )
)


@dataclass
class Report:
    """What was found so far, and the folder that it is written to."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, part: str, facts: Any) -> None:
        """Add a part and write everything anew."""
        self.facts[part] = facts
        (self.folder / "report.json").write_text(json.dumps(self.facts, indent=2) + "\n")
        (self.folder / "report.md").write_text(markdown(self.facts))


def goals(way: dict[str, Any]) -> dict[str, bool]:
    """Which of the goals a measured way meets."""
    met = {}
    faces = way["faces"]
    best = {
        count: (told["whole"]["recorded"] or told["whole"]["plain"])["clock_median"] for count, told in faces.items()
    }
    if "1" in best:
        met[f"one face in {ONE_FACE} ms, frame on the device to points on the host"] = best["1"] <= ONE_FACE
    if {"1", "16"} <= best.keys():
        met[f"16 faces in {SIXTEEN:g} times one"] = best["16"] <= SIXTEEN * best["1"]
    for count, told in faces.items():
        crop, network, decode = (_step(told["steps"][name]) for name in ("crop", "network", "decode"))
        met[f"crop and decode within {OWN_SHARE:.0%} of the network, {count} faces"] = (
            crop + decode <= OWN_SHARE * network
        )
    run = way["long run"]
    met["memory does not grow"] = min(run["device growth"]) <= 0 and (run["host growth"] or 0) <= GROWTH
    met["the same results to the end"] = run["same results"]
    if way["recording equals plain launches"] is not None:
        met["the recording equals plain launches bit for bit"] = way["recording equals plain launches"]
    ran = [row for row in way.get("parity", {}).get("rows", ())[1:] if not row["missing"]]
    if ran:  # the last is the way itself
        met["points and NME within the tolerances of float32"] = ran[-1]["holds"]
    return met


def _step(told: dict[str, Any]) -> float:
    return float(told["recorded_ms"] if told["recorded_ms"] is not None else told["plain"]["device_median"])


def markdown(facts: dict[str, Any]) -> str:
    """The report for people."""
    about = facts["machine"]
    lines = [f"# Engines on {about['gpu']}", "", f"{about['model']}; {about['system']}.", ""]
    lines += ["ms, median and (p99). Whole: from a frame on the device to points on the host. A step's device time is"]
    lines += ["of one in a recording of many where it can be recorded, else of one plain launch.", ""]
    for name, way in facts.get("ways", {}).items():
        lines += [f"## {name}", ""]
        if "why" in way:
            lines += [f"Not measured. It answered: {way['why']}", ""]
            continue
        lines += _times(way["faces"]) + _decode(way.get("decode", {})) + _parity(way.get("parity", {}))
        run = way["long run"]
        lines += [
            f"{run['frames']} frames in {run['seconds']} s: device memory grew by {run['device growth'][0]} and "
            f"{run['device growth'][1]} bytes in its halves, the host's by {run['host growth']}.",
            "",
            *(f"- {goal}: {'yes' if met else '**no**'}" for goal, met in goals(way).items()),
            "",
        ]
    if not about["tensorrt"]:
        lines += [f"No TensorRT is installed: {install_command('rtx')} (or the extra 'tensorrt').", ""]
    lines += ["## What a clone of the source runs besides", ""]
    lines += [f"    {line}" for line in about["besides"]]
    return "\n".join(lines) + "\n"


def _times(faces: dict[str, Any]) -> list[str]:
    steps = list(next(iter(faces.values()))["steps"])
    lines = ["| faces | whole, clock | plain, clock | whole, device | plain, device | " + " | ".join(steps) + " |"]
    lines += ["|" + "---|" * (5 + len(steps))]
    for count, told in faces.items():
        ways = (told["whole"]["recorded"], told["whole"]["plain"])
        cells = [
            f"{way[f'{clock}_median']:.3f} ({way[f'{clock}_p99']:.3f})" if way else "-"
            for clock in ("clock", "device")
            for way in ways
        ]
        cells += [f"{_step(step):.4f}" for step in told["steps"].values()]
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return [*lines, "", "Whole: recorded as a CUDA graph; plain: launched one by one.", ""]


def _decode(told: dict[str, Any]) -> list[str]:
    if not told:
        return []
    if "why" in told:
        return [f"Decode in the graph: not measured: {told['why']}", ""]
    lines = ["| faces | network and decode.cu | network that decodes |", "|---|---|---|"]
    lines += [
        f"| {count} | {one['network and decode.cu']:.4f} | {one['network that decodes']:.4f} |"
        for count, one in told.items()
    ]
    return [*lines, ""]


def _parity(told: dict[str, Any]) -> list[str]:
    if not told:
        return ["Parity: give --checkpoint to compare with PyTorch in float32.", ""]
    if "why" in told:
        return [f"Parity: not compared: {told['why']}", ""]
    lines = ["| points beside the first row, crop pixels | mean | 99 % | max | NME | change |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in told["rows"]:
        if row["missing"]:
            lines.append(f"| {row['name']} | not run: {row['missing']} | | | | |")
            continue
        shifts = " | ".join(f"{row[name]:.4f}" for name in ("mean", "most_99", "largest"))
        nme = " | ".join("-" if row[name] is None else f"{row[name]:.3f}" for name in ("nme", "nme_change"))
        lines.append(f"| {row['name']} | {shifts} | {nme} |")
    return [*lines, ""]
