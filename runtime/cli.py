"""The `canthus` command: finds sub-commands by their entry points and imports a room only when its command runs.

A sub-command is a function `command(arguments: list[str]) -> int` in the entry-point group `canthus.commands`; the
first line of its docstring is its line in the help.
"""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import FrameType

from canthus.runtime.errors import CanthusError

GROUP = "canthus.commands"
Command = Callable[[list[str]], int]

LIBRARIES = "libegl1 libgl1 libgles2 libglib2.0-0"
"""Debian's names of what OpenCV and MediaPipe link to and their wheels do not carry."""

NO_LIBRARY = "cannot open shared object file"
"""What Linux says where one of them is missing: in an ImportError, or an OSError where Python loads it by name."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0 done, 1 could not, 2 asked for wrongly, 130 Ctrl-C."""
    if sys.stderr is None:  # closed by the shell (2>&-), or never there (pythonw)
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - it stays open
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name need not be text
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
    if words[0] not in commands:
        print(f"canthus: no command {words[0]!r}; there are: {', '.join(sorted(commands))}", file=sys.stderr)
        return 2
    try:
        with _ended_by_signals():
            command: Command = commands[words[0]].load()
            return command(words[1:])
    except CanthusError as error:
        if debug:
            raise
        print(f"canthus {words[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ncanthus {words[0]}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`canthus doctor | head`); nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ImportError) as error:
        if debug or (isinstance(error, ImportError) and NO_LIBRARY not in str(error)):
            raise
        print(f"canthus {words[0]}: {_in_a_line(error)}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end a command as Ctrl-C does, so that its files are whole.

    Each is heard once: a terminal sends its signal twice, and the second must not break into the ending. What is
    ignored already (`nohup`) stays ignored.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        hear = signal.getsignal(signal.SIGINT)  # perhaps the command's own; a job in the background ignores it
        (hear if callable(hear) else signal.default_int_handler)(signal.SIGINT, frame)

    heard = []
    if threading.current_thread() is threading.main_thread():
        names = ("SIGTERM", "SIGHUP")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        heard = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in heard:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


def _in_a_line(error: OSError | ImportError) -> str:
    if NO_LIBRARY in str(error):
        return f"a library does not load ({error}); on Debian or Ubuntu: apt install {LIBRARIES}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _help(commands: dict[str, metadata.EntryPoint]) -> str:
    lines = [
        "usage: canthus COMMAND ...",
        "",
        "98 points on every face, from a webcam or a video.",
        "",
        "commands:",
    ]
    for name, point in sorted(commands.items()):
        try:
            summary = (point.load().__doc__ or "").strip().split("\n")[0]
        except ImportError as missing:
            summary = f"(not available: {missing})"
        lines.append(f"  {name:<10} {summary}")
    lines += [
        "",
        "canthus COMMAND --help tells more. --version prints the version; --debug shows where an error arose.",
    ]
    return "\n".join(lines)
