"""The report of `canthus engine bench`: JSON for programs, Markdown for people, and which goals were met."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from canthus.runtime.extras import install_command

MAX_HOST_GROWTH = 4 * 2**20
"""Goal: host memory grows by at most this many bytes in the long run."""
ONE_FACE_MS, SIXTEEN_FACES = 0.8, 4.0
"""Goals on an H100: ms for one face, and the time for 16 faces as a multiple of that for one."""
MAX_KERNEL_SHARE = 0.1
"""Goal: crop and decode together take at most this fraction of the time of the network."""

SOURCE_CHECKS = tuple(
    f"CANTHUS_REQUIRE_CUDA=1 {check}"
    for check in (
        "pytest -m cuda",
        "compute-sanitizer --error-exitcode 1 pytest tests/runtime/test_cuda_kernels.py -k crop_and_decode_on_a_gpu",
        "compute-sanitizer --tool racecheck --error-exitcode 1 pytest tests/runtime/test_cuda_kernels.py "
        "-k crop_and_decode_on_a_gpu",
    )
)
"""Further GPU checks, which need a clone of the source."""


@dataclass
class Report:
    """The results so far and the folder that they are written to."""

    folder: Path
    results: dict[str, Any] = field(default_factory=dict)

    def add(self, part: str, results: Any) -> None:
        """Add or replace a part and write both files."""
        self.results[part] = results
        (self.folder / "report.json").write_text(json.dumps(self.results, indent=2) + "\n")
        (self.folder / "report.md").write_text(markdown(self.results))


def goals(backend: dict[str, Any]) -> dict[str, bool]:
    """Return the goals and whether a measured backend meets them."""
    met = {}
    faces = backend["faces"]
    total = {
        count: (times["total"]["graph"] or times["total"]["launches"])["clock_median"] for count, times in faces.items()
    }
    if "1" in total:
        met[f"one face takes at most {ONE_FACE_MS} ms from a frame on the device to points on the host"] = (
            total["1"] <= ONE_FACE_MS
        )
    if {"1", "16"} <= total.keys():
        met[f"16 faces take at most {SIXTEEN_FACES:g} times as long as one"] = total["16"] <= SIXTEEN_FACES * total["1"]
    for count, times in faces.items():
        crop, network, decode = (_step_ms(times["steps"][name]) for name in ("crop", "network", "decode"))
        met[f"crop and decode take at most {MAX_KERNEL_SHARE:.0%} of the time of the network, {count} faces"] = (
            crop + decode <= MAX_KERNEL_SHARE * network
        )
    run = backend["long run"]
    # Other programs use device memory too. So it counts as growth only if it grows in both halves of the run.
    met["memory does not grow"] = min(run["device growth"]) <= 0 and (run["host growth"] or 0) <= MAX_HOST_GROWTH
    met["the results are the same in every frame"] = run["same results"]
    if backend["graph equals launches"] is not None:
        met["the CUDA graph returns the same bits as single launches"] = backend["graph equals launches"]
    compared = [row for row in backend.get("parity", {}).get("rows", ())[1:] if not row["not_run"]]
    if compared:  # the last row is the backend itself
        met["points and NME are within the tolerance of float32"] = compared[-1]["within tolerance"]
    return met


def _step_ms(step: dict[str, Any]) -> float:
    return float(step["graph_ms"] if step["graph_ms"] is not None else step["launches"]["device_median"])


def markdown(results: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    about = results["machine"]
    lines = [
        f"# Engines on {about['gpu']}",
        "",
        f"Model: {about['model']}. System: {about['system']}.",
        "",
        "All times are in ms: the median, and the 99th percentile in brackets. Total: from a frame on the device to",
        "points on the host. Steps: GPU time inside a CUDA graph if the step can be captured, else of a single launch.",
        "",
    ]
    for name, backend in results.get("backends", {}).items():
        lines += [f"## {name}", ""]
        if "error" in backend:
            lines += [f"Not measured. The error was: {backend['error']}", ""]
            continue
        lines += _times(backend["faces"]) + _decodes(backend.get("decode", {})) + _parity(backend.get("parity", {}))
        run = backend["long run"]
        lines += [
            f"Long run of {run['frames']} frames in {run['seconds']} s: device memory grew by "
            f"{run['device growth'][0]} bytes in the first half and {run['device growth'][1]} bytes in the second, "
            f"host memory by {run['host growth']} bytes in total.",
            "",
            "Goals:",
            "",
            *(f"- {goal}: {'yes' if met else '**no**'}" for goal, met in goals(backend).items()),
            "",
        ]
    if not about["tensorrt"]:
        lines += [f"TensorRT is not installed: {install_command('rtx')} (or the extra 'tensorrt').", ""]
    lines += ["## Further checks, in a clone of the source", ""]
    lines += [f"    {check}" for check in about["source checks"]]
    return "\n".join(lines) + "\n"


def _times(faces: dict[str, Any]) -> list[str]:
    steps = list(next(iter(faces.values()))["steps"])
    columns = [
        "faces",
        *(f"{mode}, {timer}" for timer in ("clock", "device") for mode in ("graph", "launches")),
        *steps,
    ]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for count, times in faces.items():
        modes = (times["total"]["graph"], times["total"]["launches"])
        cells = [
            f"{total[f'{timer}_median']:.3f} ({total[f'{timer}_p99']:.3f})" if total else "-"
            for timer in ("clock", "device")
            for total in modes
        ]
        cells += [f"{_step_ms(step):.4f}" for step in times["steps"].values()]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    legend = (
        "Graph: all steps replayed as one CUDA graph. Launches: the steps launched one by one. Clock: wall time. "
        "Device: GPU time."
    )
    return [*lines, "", legend, ""]


def _decodes(times: dict[str, Any]) -> list[str]:
    if not times:
        return []
    if "error" in times:
        return [f"Network with decode: not measured. The error was: {times['error']}", ""]
    lines = ["| faces | network + decode.cu | network with decode |", "|---|---|---|"]
    lines += [
        f"| {count} | {row['network + decode.cu']:.4f} | {row['network with decode']:.4f} |"
        for count, row in times.items()
    ]
    return [*lines, ""]


def _parity(parity: dict[str, Any]) -> list[str]:
    if not parity:
        return ["Parity: not compared. Use --checkpoint to compare with PyTorch in float32.", ""]
    if "error" in parity:
        return [f"Parity: not compared. The error was: {parity['error']}", ""]
    lines = ["| distance to the points of the first row, crop pixels | mean | p99 | max | NME, % | change of NME |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in parity["rows"]:
        if row["not_run"]:
            lines.append(f"| {row['name']} | not run: {row['not_run']} | | | | |")
            continue
        shifts = " | ".join(f"{row[name]:.4f}" for name in ("mean", "p99", "largest"))
        nme = " | ".join("-" if row[name] is None else f"{row[name]:.3f}" for name in ("nme", "nme_change"))
        lines.append(f"| {row['name']} | {shifts} | {nme} |")
    return [*lines, ""]
