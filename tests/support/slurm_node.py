"""A Slurm of one node on this machine, while a command runs: `python tests/support/slurm_node.py sbatch --wait ...`

It needs root and Debian's packages slurmctld, slurmd, slurm-client and munge, but neither systemd nor cgroups, so it
runs in a container. Everything it writes lies in a temporary folder, it listens on free ports of 127.0.0.1, and it
ends every job and daemon of its own when the command ends.
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
PATIENCE = 60  # seconds

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


def lacking() -> str:
    """What keeps this machine from running a Slurm of its own; nothing = it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    missing = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    return f"{', '.join(missing)} missing: apt-get install munge slurmctld slurmd slurm-client" if missing else ""


@contextlib.contextmanager
def slurm_node() -> Iterator[dict[str, str]]:
    """Run the daemons; yields the environment in which sbatch and its like talk to them."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path must be short
    folder.chmod(0o755)
    with contextlib.ExitStack() as opened:
        opened.callback(shutil.rmtree, folder)
        environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(_configure(folder))}
        munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        opened.enter_context(_daemon(["munged", "-F", f"--socket={folder}/munge.socket", *munge], environment))
        _wait_for((folder / "munge.socket").exists, folder)
        opened.enter_context(_daemon(["slurmctld", "-D"], environment))
        opened.enter_context(_daemon(["slurmd", "-D", "-N", "localhost"], environment))
        _wait_for(lambda: "idle" in _told(["sinfo", "--noheader", "--format=%t"], environment), folder)
        try:
            yield environment
        finally:
            _told(["scancel", "--user=root"], environment)
            _wait_for(lambda: not _told(["squeue", "--noheader"], environment), folder)


def _configure(folder: Path) -> Path:
    """Write what the daemons read: slurm.conf, whose path is returned, a key, and folders for their states."""
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in (one, other)]
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    told = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, env={"PATH": _path()}, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", told)[:2])) >= (23, 11):  # earlier ones leave cgroups alone unasked
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, ports=ports, cores=os.cpu_count()))
    return folder / "slurm.conf"


@contextlib.contextmanager
def _daemon(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Run a daemon that stays in the foreground, in a session of its own, which Ctrl-C does not reach."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, env=environment, cwd="/", start_new_session=True, **quiet)
    try:
        yield
    finally:
        running.terminate()
        try:
            running.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _wait_for(fact, folder: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not fact():
        if time.monotonic() > until:
            logs = [f"{log.name}:\n{log.read_text()[-2000:]}" for log in sorted(folder.glob("*.log"))]
            raise TimeoutError("\n".join(["Slurm does not get there; its logs end so:", *logs]))
        time.sleep(0.2)


def _told(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


def _path() -> str:
    """Where programs are, those for root alone among them, and beside Python, as after `activate`."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


if __name__ == "__main__":
    if not sys.argv[1:] or lacking():
        sys.exit(lacking() or __doc__)
    with slurm_node() as slurm:
        sys.exit(subprocess.run(sys.argv[1:], env=slurm, check=False).returncode)
