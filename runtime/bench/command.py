"""`canthus bench`: measure speed, memory and stability on this machine.

Each other measurement is a sub-command with a parser and a file of its own, which is imported only when it runs.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from canthus.runtime.bench.machine import without_unbuilt_engine
from canthus.runtime.errors import InputError
from canthus.runtime.options import add_landmarker_options, command_parser, settings_from_args

DESCRIPTION = """Measure speed and memory on a video, and the stability of the points on the sample clip.

The sample clip shows a portrait, first at rest, then moved along a known path. Jitter is the mean step of the points
from frame to frame while the face is at rest. Error is the mean distance of the points from the path. Both are in % of
the inter-ocular distance. Lag is the delay behind the path, in frames. The GPU is measured if its engine is built
(`canthus engine build`), else the CPU.

Other measurements are `canthus bench peers`, `soak`, `stages` and `watch`, each with a --help of its own."""

EXAMPLES = """examples:
  canthus bench                          speed and stability on the sample clip
  canthus bench --cpu --model accurate   of another model, on the CPU
  canthus bench --clip my.mp4            speed on your video (its true motion is unknown: no stability)
  canthus bench --max-faces 4 --json     as json
  canthus bench stages -o report         each stage, for models, numbers of faces and sizes of frames
  canthus bench peers -o peers.json      against MediaPipe and others, on the same frames
  canthus bench soak --hours 2           memory and latency over hours; see canthus bench soak --help
  canthus bench watch -o w.json -- canthus video clips/ --table t/    memory and handles of a command"""


def command(arguments: list[str]) -> int:
    """Measure speed, memory and stability on this machine."""
    match arguments:
        case ["soak", *rest]:
            from canthus.runtime.bench import soak

            return soak.command(rest)
        case ["stages", *rest]:
            from canthus.runtime.bench.stages import command as measure_stages

            return measure_stages(rest)
        case ["peers", *rest]:
            from canthus.runtime.bench.peers import command as measure_peers

            return measure_peers(rest)
        case ["watch", *rest]:
            from canthus.runtime.bench.watch import command as watch_command

            return watch_command(rest)
        case [name, *_] if not name.startswith("-"):
            print(
                f"canthus bench: unknown measurement {name!r} (expected peers, soak, stages or watch)", file=sys.stderr
            )
            return 2
        case _:
            return _measure_clip(arguments)


def _measure_clip(arguments: list[str]) -> int:
    parser = command_parser("canthus bench", DESCRIPTION, EXAMPLES)
    parser.add_argument("--clip", type=Path, metavar="VIDEO", help="measure speed on this video, not the sample clip")
    parser.add_argument("--json", action="store_true", help="print the results as json")
    parser.add_argument("--measures", action="store_true", help="also time head pose and expressions")
    add_landmarker_options(parser, max_faces=1)
    args = parser.parse_args(arguments)

    from canthus.runtime import sample
    from canthus.runtime.bench.clip import measure_speed, measure_stability, speed_lines, stability_lines

    settings = without_unbuilt_engine(settings_from_args(args))
    backend, speed = measure_speed(args.clip or sample.CLIP, settings)
    if not speed.frames_with_faces:
        print(f"canthus bench: {args.clip or sample.CLIP}: no face found; landmark times are missing", file=sys.stderr)
    stability = None
    if args.clip is None:
        try:
            stability = measure_stability(settings)
        except InputError as error:
            print(f"canthus bench: {error}", file=sys.stderr)
    if args.json:
        results = {"backend": backend, "speed": asdict(speed)}
        print(json.dumps(results | ({"stability": asdict(stability)} if stability else {}), indent=2))
    else:
        print("\n".join(speed_lines(backend, speed) + (stability_lines(stability) if stability else [])))
    return 0
