"""A real Slurm of one node and two cores, in a folder and without accounting, for as long as a context.

`python tests/faults/slurm/cluster.py` installs the packages (Debian, as root). Daemons run with a configuration, a key
and ports that nobody else uses: a Slurm that this machine may have is not touched.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge")
HOW = "type `python tests/faults/slurm/cluster.py` as root on Debian, which installs " + " and ".join(PACKAGES)
GRACE = 8

# a job waits for the end of its old credential before it starts again: seconds, not minutes
_CONFIGURATION = """\
ClusterName=faults
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
{parameters}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 GraceTime=0 MaxTime=INFINITE State=UP
PartitionName=grace Nodes={host} PriorityTier=1 GraceTime={grace} MaxTime=INFINITE State=UP
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""
_NO_SIGNAL = "# no signal ahead of a pre-emption"
_SIGNAL = "SlurmctldParameters=preempt_send_user_signal"


def why_not() -> str | None:
    """Why no cluster can be started here; None if one can."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not found: {HOW}"
    return None if os.geteuid() == 0 else "the daemons of Slurm need root"


class Cluster:
    """A running cluster.

    Attributes:
        folder: configuration, state and logs.
        environment: in which commands reach it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.environment["SLURM_CONF"] = str(folder / "slurm.conf")

    def run(self, *words: str) -> str:
        """The output of a command of Slurm's."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, script: Path, *options: str, cwd: Path, **environment: str) -> str:
        """Submit a job script; its number."""
        done = subprocess.run(
            ["sbatch", "--parsable", *options, str(script)],
            env={**self.environment, **environment},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def field(self, job: str, name: str) -> str:
        """What the controller says about a job."""
        found = re.search(rf"\b{name}=(\S+)", self.run("scontrol", "show", "job", job).partition("\n")[2])
        assert found is not None, name
        return found[1]

    def restarts(self, job: str) -> int:
        """How often a job was requeued."""
        return int(self.field(job, "Restarts"))

    def wait(self, job: str, *states: str, seconds: float = 400) -> str:
        """Wait until a job is in one of some states, by default one in which it has ended; that state."""
        wanted = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        deadline = time.monotonic() + seconds
        while (state := self.field(job, "JobState")) not in wanted:
            assert time.monotonic() < deadline, f"job {job} is {state}\n{self._log()}"
            time.sleep(0.5)
        return state

    def _log(self) -> str:
        return "\n".join((self.folder / "slurmctld.log").read_text().splitlines()[-40:])

    def preempt(self, *, seconds: int = 2) -> None:
        """Take both cores away from the jobs that run, and wait until they are free again."""
        job = self.run("sbatch", "--parsable", "-p", "high", "-n2", "-o", "/dev/null", "--wrap", f"sleep {seconds}")
        # the controller looks twice a minute whether a grace time is over
        self.wait(job, "COMPLETED", seconds=300)

    @contextlib.contextmanager
    def user_signal(self) -> Iterator[None]:
        """Meanwhile a pre-empted job receives the signal that it asked for, instead of SIGTERM."""
        _configure(self, _NO_SIGNAL, _SIGNAL)
        try:
            yield
        finally:
            _configure(self, _SIGNAL, _NO_SIGNAL)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Start the daemons, and stop them with everything that they started."""
    found = Cluster(folder)
    # the daemons of munge refuse a folder that others may change
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    ports = _free_ports(2)
    (folder / "slurm.conf").write_text(
        _CONFIGURATION.format(folder=folder, host=socket.gethostname(), ports=ports, grace=GRACE, parameters=_NO_SIGNAL)
    )
    try:
        munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        subprocess.run(["munged", "--force", *munge, f"--socket={folder}/munge.socket"], check=True, timeout=60)
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon], env=found.environment, check=True, timeout=60)
        deadline = time.monotonic() + 60
        while (
            "idle"
            not in subprocess.run(
                ["sinfo", "-h", "-o", "%T"], env=found.environment, capture_output=True, text=True, check=False
            ).stdout
        ):
            assert time.monotonic() < deadline, f"the node does not come up; see {folder}/slurmctld.log"
            time.sleep(0.5)
        yield found
    finally:
        _stop(found)


def _configure(found: Cluster, old: str, new: str) -> None:
    path = found.folder / "slurm.conf"
    path.write_text(path.read_text().replace(old, new))
    found.run("scontrol", "reconfigure")


def _stop(found: Cluster) -> None:
    subprocess.run(["scancel", "--user=root"], env=found.environment, check=False, timeout=60)
    deadline = time.monotonic() + 30
    while (
        time.monotonic() < deadline
        and subprocess.run(["squeue", "-h"], env=found.environment, capture_output=True, text=True, check=False).stdout
    ):
        time.sleep(0.5)
    for name in ("slurmd", "slurmctld", "munge"):
        with contextlib.suppress(OSError, ValueError):
            number = int((found.folder / f"{name}.pid").read_text())
            os.kill(number, signal.SIGTERM)
            while Path(f"/proc/{number}").exists() and time.monotonic() < deadline + 30:
                time.sleep(0.2)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


if __name__ == "__main__":
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", *PACKAGES]):
        subprocess.run(["apt-get", *arguments], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=True)
    sys.exit(why_not())
