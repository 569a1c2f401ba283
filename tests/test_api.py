"""The Python API as its users meet it, and what it answers to what it cannot take."""

import subprocess
import sys


def test_a_command_goes_on_without_stderr_and_tells_its_errors_to_nobody():
    ask = "from canthus.runtime.cli import main; print(main(['nothing']))"
    told = subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{ask}" 2>&-'], capture_output=True, text=True, check=True)
    assert told.stdout == "2\n"
