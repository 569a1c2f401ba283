"""A Slurm cluster of one node on this machine, while a command runs.

    python tests/support/slurm_node.py sbatch --wait job.sh

It needs root and Debian's packages slurmctld, slurmd, slurm-client and munge, but neither systemd nor cgroups, so it
runs in a container. It writes to a temporary folder and listens on free ports of 127.0.0.1. When the command ends, it
cancels the jobs and stops the daemons that it started.
"""

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
TIMEOUT = 60  # seconds

CONFIGURATION = """
ClusterName=canthus
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=5
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cores}
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def missing_requirement() -> str:
    """Return why this machine cannot run a Slurm node; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    missing = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    return f"{', '.join(missing)} missing: apt-get install munge slurmctld slurmd slurm-client" if missing else ""


@contextlib.contextmanager
def slurm_node() -> Iterator[dict[str, str]]:
    """Run the daemons, and yield the environment in which sbatch, srun and scancel talk to them."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path must be short
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(_configure(folder))}
        munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        stack.enter_context(_daemon(["munged", "-F", f"--socket={folder}/munge.socket", *munge], environment))
        _wait_for((folder / "munge.socket").exists, folder)
        stack.enter_context(_daemon(["slurmctld", "-D"], environment))
        stack.enter_context(_daemon(["slurmd", "-D", "-N", "localhost"], environment))
        _wait_for(lambda: "idle" in _output(["sinfo", "--noheader", "--format=%t"], environment), folder)
        try:
            yield environment
        finally:
            _output(["scancel", "--user=root"], environment)
            _wait_for(lambda: not _output(["squeue", "--noheader"], environment), folder)


def _configure(folder: Path) -> Path:
    """Write the daemons' configuration, key and state folders, and return the path of slurm.conf."""
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in (first, second)]
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    version = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, env={"PATH": _path()}, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) >= (23, 11):  # earlier versions do not use cgroups by default
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, ports=ports, cores=os.cpu_count()))
    return folder / "slurm.conf"


@contextlib.contextmanager
def _daemon(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Run a daemon in the foreground, in its own session, so that Ctrl-C does not reach it."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, env=environment, cwd="/", start_new_session=True, **quiet)
    try:
        yield
    finally:
        running.terminate()
        try:
            running.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _wait_for(condition, folder: Path) -> None:
    until = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > until:
            logs = [f"{log.name}:\n{log.read_text()[-2000:]}" for log in sorted(folder.glob("*.log"))]
            raise TimeoutError("\n".join([f"Slurm was not ready within {TIMEOUT} s; the ends of its logs:", *logs]))
        time.sleep(0.2)


def _output(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


def _path() -> str:
    """Return PATH with the folder of this Python, as after `activate`, and with the programs of root."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


if __name__ == "__main__":
    if not sys.argv[1:] or missing_requirement():
        sys.exit(missing_requirement() or __doc__)
    with slurm_node() as slurm:
        sys.exit(subprocess.run(sys.argv[1:], env=slurm, check=False).returncode)
