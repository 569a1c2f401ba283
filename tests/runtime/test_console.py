"""Commands show log messages as lines on stderr; the library only logs."""

import io
import logging
import subprocess
import sys

from tqdm import tqdm

from canthus.runtime.console import show_logs

LOG = logging.getLogger("canthus.runtime.backends.automatic")


def test_messages_are_lines_on_stderr_within_the_block_only(capsys):
    with show_logs():
        LOG.info("the engine is %s", "built")
        LOG.debug("a detail")
        logging.getLogger("other").warning("of another library")
    LOG.info("after the block")
    assert capsys.readouterr().err == "canthus: the engine is built\n"
    assert logging.getLogger("canthus").handlers == []


def test_message_stands_above_a_progress_bar(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.delenv("TQDM_DISABLE")
    with show_logs(), tqdm(total=2, file=stderr, disable=False, mininterval=0) as bar:
        bar.update()
        LOG.warning("the CPU is used")
        bar.update()
    lines = [line.rpartition("\r")[2] for line in stderr.getvalue().splitlines()]
    assert "canthus: the CPU is used" in lines
    assert lines[-1].startswith("100%")


def test_importing_the_console_loads_nothing_heavy():
    script = (
        "import sys, canthus.runtime.console\nprint([name for name in ('cv2', 'tqdm', 'numpy') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"
