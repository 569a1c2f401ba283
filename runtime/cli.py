"""The `canthus` command. It finds sub-commands by their entry points and imports one only when it runs.

A sub-command is a function `command(arguments: list[str]) -> int` in the entry-point group `canthus.commands`. The
first line of its docstring is its line in `canthus --help`.
"""

import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from canthus.runtime.console import show_logs
from canthus.runtime.errors import CanthusError, UsageError
from canthus.runtime.interrupts import signals_end_command
from canthus.runtime.memory_arenas import limit_memory_arenas

GROUP = "canthus.commands"
Command = Callable[[list[str]], int]

DEBIAN_PACKAGES = "libegl1 libgl1 libgles2 libglib2.0-0"
"""Debian packages with the libraries that OpenCV and MediaPipe need and their wheels do not contain."""

MISSING_LIBRARY = "cannot open shared object file"
"""Part of Linux's message for a missing library: an ImportError, or an OSError if Python loads it by name."""

SECTIONS = (
    ("find points on faces", ("view", "video", "images", "stream", "report", "calibrate", "replay")),
    ("check and tune this machine", ("doctor", "bench", "engine")),
    ("train networks", ("data", "label", "train", "train-session", "eval", "export")),
)
"""The order of the commands in the help. Commands of other packages come last."""

EXAMPLES = """examples:
  canthus view                                  the first webcam, live
  canthus video clip.mp4 -o overlay.mp4         draw the points on a video
  canthus images photos/ --table points.csv     write the points of images to a table"""

EXIT_CODES = "exit codes: 0 success, 1 failure, 2 wrong usage, 130 stopped with Ctrl-C"


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; return the exit code: 0 success, 1 failure, 2 wrong usage, 130 Ctrl-C."""
    if sys.stderr is None:  # closed by the shell (2>&-), or absent (pythonw)
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - it stays open
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names need not be valid UTF-8
    try:
        try:
            return _main(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.ENOSPC:  # of the file that standard output goes to
            print(f"canthus: standard output: {_one_line(error)}", file=sys.stderr)
        elif not isinstance(error, BrokenPipeError):  # that the reader has closed it (`| head`) is no error
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would print an error at exit
        return 1


def _main(arguments: list[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("CANTHUS_DEBUG"))
    words = [word for word in words if word != "--debug"]
    commands = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if words in (["--version"], ["-V"]):
        print(f"canthus {metadata.version('canthus')}")
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(_help(commands))
        return 0 if words else 2
    name = words[0]
    if name not in commands:
        print(f"canthus: unknown command {name!r} (commands: {', '.join(sorted(commands))})", file=sys.stderr)
        return 2
    limit_memory_arenas()
    try:
        with show_logs(logging.DEBUG if debug else logging.INFO), signals_end_command():
            command: Command = commands[name].load()
            return command(words[1:])
    except CanthusError as error:
        if debug:
            raise
        print(f"canthus {name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        if arguments is None:  # the process ends now, and another Ctrl-C would kill it while it does
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f"\ncanthus {name}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise  # it is an OSError
    except (OSError, ImportError) as error:
        if debug or (isinstance(error, ImportError) and MISSING_LIBRARY not in str(error)):
            raise
        print(f"canthus {name}: {_one_line(error)}", file=sys.stderr)
        return 1


def _one_line(error: OSError | ImportError) -> str:
    if MISSING_LIBRARY in str(error):
        return f"a system library is missing ({error}); on Debian or Ubuntu: apt install {DEBIAN_PACKAGES}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _help(commands: dict[str, metadata.EntryPoint]) -> str:
    known = {name for _, names in SECTIONS for name in names}
    lines = [
        "usage: canthus COMMAND ...",
        "",
        "Find the landmarks of every face of a webcam, a video or images: 98 with the included models.",
    ]
    for title, names in (*SECTIONS, ("other commands", tuple(sorted(commands.keys() - known)))):
        if present := [name for name in names if name in commands]:
            lines += ["", f"{title}:", *(f"  {name:<13} {_summary(commands[name])}" for name in present)]
    lines += [
        "",
        "options:",
        "  --version     print the version",
        "  --debug       with a command: print debug messages, and a traceback after an error",
        "",
        EXAMPLES,
        "",
        "`canthus COMMAND --help` shows the options of a command.",
        EXIT_CODES,
    ]
    return "\n".join(lines)


def _summary(point: metadata.EntryPoint) -> str:
    """Return the first line of a command's docstring."""
    try:
        return (point.load().__doc__ or "").strip().split("\n")[0]
    except ImportError as error:
        return f"(not available: {error})"
