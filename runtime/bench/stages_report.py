"""The report of `canthus bench stages`: JSON, a page of Markdown and a diagram."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from canthus.runtime.errors import InputError
from canthus.runtime.files import write_file

COLORS = {
    "decode": "#9aa5b1",
    "detect": "#f0b429",
    "crop": "#2cb1bc",
    "network": "#2186eb",
    "maps": "#0552b5",
    "track": "#8719e0",
    "smooth": "#da127d",
    "measure": "#e66a6a",
    "stream": "#8d6e63",
    "draw": "#3ebd93",
    "encode": "#627d98",
}
LABEL, BAR, ROW = 230, 640, 22
"""Width of the labels and of the longest bar, and height of a row of the diagram, in pixels."""


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise InputError if a report is there already, or the folder cannot be made."""
    if (folder / "stages.json").exists() and not overwrite:
        raise InputError(f"{folder}: has a report already; add --overwrite to replace it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from error


def write_report(report: Mapping[str, Any], folder: Path) -> str:
    """Write stages.json, stages.md and stages.svg; return the page."""
    page = to_markdown(report)
    write_file(folder / "stages.json", (json.dumps(report, indent=2) + "\n").encode())
    write_file(folder / "stages.md", page.encode())
    write_file(folder / "stages.svg", to_svg(report["results"]).encode())
    return page


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as one page."""
    machine, startup, results = report["machine"], report["startup"], report["results"]
    stages = list(COLORS)
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    lines = [
        "# Time of each stage",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {' '.join(machine['isa']) or 'unknown instructions'}"
        + (f" (limited to {machine['isa_limit']})" if machine["isa_limit"] else ""),
        f"{machine['system']}, Python {machine['python']}, {versions}",
        "",
        "Milliseconds per frame of all faces: median / 99th percentile. *maps* is the decode of the maps, which is in "
        "the network's file. Latency is crop to smooth. *fps* is `canthus video` with an overlay, start included.",
        "",
        "| model | size | faces | " + " | ".join(stages) + " | latency | fps |",
        "|---|---|---|" + "---|" * (len(stages) + 2),
    ]
    for result in results:
        times = [result["stages"][stage] for stage in stages] + [result["latency"]]
        cells = [f"{time['median_ms']:.2f} / {time['p99_ms']:.2f}" for time in times]
        model = f"{Path(result['model']).stem} ({result['precision']}, computed in {result['computed_in']})"
        lines.append(
            f"| {model} | {result['size']} | {result['faces']} | {' | '.join(cells)} | {result['throughput_fps']:.1f} |"
        )
    lines += [
        "",
        f"Start: Python {startup['python_seconds']:.2f} s, `canthus video --help` {startup['help_seconds']:.2f} s, "
        f"the libraries {startup['libraries_seconds']:.2f} s, the first points {startup['first_points_seconds']:.2f} s "
        f"({startup['first_points_ratio']:.2f} times the libraries).",
        "",
        "![Time of each stage](stages.svg)",
        "",
    ]
    return "\n".join(lines)


def to_svg(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a diagram with one bar for each case: the medians of its stages."""
    totals = [sum(time["median_ms"] for time in result["stages"].values()) for result in results]
    scale = BAR / max([*totals, 1e-9])
    width, height = LABEL + BAR + 80, ROW * (len(results) + 2) + 10
    drawn = []
    for place, (stage, color) in enumerate(COLORS.items()):
        left = 10 + place * 86
        drawn += [f'<rect x="{left}" y="6" width="12" height="12" fill="{color}"/>', _text(left + 16, 16, stage)]
    for row, (result, total) in enumerate(zip(results, totals, strict=True)):
        y, x = ROW * (row + 1) + 10, float(LABEL)
        faces = f"{result['faces']} face" + ("s" if result["faces"] > 1 else "")
        drawn.append(
            _text(10, y + 14, f"{Path(result['model']).stem}, {result['precision']}, {result['size']}, {faces}")
        )
        for stage, color in COLORS.items():
            length = scale * result["stages"][stage]["median_ms"]
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{ROW - 6}" fill="{color}"/>')
            x += length
        drawn.append(_text(x + 6, y + 14, f"{total:.1f} ms"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{html.escape(text)}</text>'
