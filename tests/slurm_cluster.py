"""A SLURM cluster of two nodes on this machine: munge, slurmctld and two slurmd, all of it inside one folder."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# cred_expire and the intervals of the scheduler decide how long a requeued job waits: 150 s with SLURM's defaults.
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=3600
NodeName=DEFAULT CPUs=16 RealMemory=16000
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=INFINITE GraceTime=10
PartitionName=urgent Nodes=n[1-2] PriorityTier=2
"""
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "scontrol")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY"}


def why_there_is_no_slurm() -> str | None:
    """Install what is missing where that is allowed; what stands in the way, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0:
        return "slurmd starts jobs as other users, so the cluster of the test has to be started by root"
    if missing and shutil.which("apt-get") is None:
        return f"{', '.join(missing)} not installed, and there is no apt-get to install slurm-wlm and munge with"
    for words in (["update"], ["install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]) if missing else ():
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        answer = subprocess.run(["apt-get", *words], capture_output=True, text=True, env=environment, check=False)
        if answer.returncode:
            return f"`apt-get {' '.join(words)}` failed: {answer.stderr.strip()[-300:]}"
    return None


class Job:
    """A job that was submitted; an array is one job of several tasks."""

    def __init__(self, cluster: "SlurmCluster", number: str):
        self.cluster = cluster
        self.number = number

    def tasks(self) -> list[dict[str, str]]:
        """What SLURM knows: one mapping for each task of an array, one for any other job."""
        lines = self.cluster.command("scontrol", "show", "job", "--oneliner", self.number).splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if line.startswith("JobId=")]

    def states(self) -> list[str]:
        """State of each task."""
        return [task["JobState"] for task in self.tasks()]

    def wait(self, states: set[str] = ENDED, timeout_sec: float = 120) -> list[str]:
        """Wait until every task is in one of `states`; fails with the cluster's view of things after `timeout_sec`."""
        return wait_until(lambda: (now := self.states()) and set(now) <= states and now, timeout_sec, self.describe)

    def describe(self) -> str:
        """For the message of a test that waited in vain."""
        return f"job {self.number}: {self.tasks()}\n{self.cluster.command('squeue', '--all', '--long')}"


class SlurmCluster:
    """Daemons of a cluster, started in `folder`; `environment` makes SLURM's commands speak with it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen] = []

    def command(self, *words: str, cwd: Path | None = None) -> str:
        """Run a command against this cluster; returns what it printed, fails with what it complained of."""
        answer = subprocess.run(words, cwd=cwd, env=self.environment, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, f"{' '.join(words)}\n{answer.stdout}{answer.stderr}"
        return answer.stdout

    def submit(self, *words: str, cwd: Path) -> Job:
        """`sbatch --parsable` with these words."""
        return Job(self, self.command("sbatch", "--parsable", *words, cwd=cwd).strip())

    def start(self) -> None:
        """Start all daemons, and wait until both nodes take jobs."""
        munge = self.folder / "munge"
        munge.mkdir(parents=True, mode=0o755)
        for name in ("state", "spool.n1", "spool.n2"):
            (self.folder / name).mkdir()
        ports = free_ports(3)
        host = socket.gethostname()
        (self.folder / "slurm.conf").write_text(CONF.format(folder=self.folder, host=host, ports=ports))
        self.command("mungekey", "--create", f"--keyfile={munge}/key")
        files = [f"--{name}-file={munge}/{name}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--socket={munge}/socket", *files)
        wait_until((munge / "socket").exists, 10, lambda: (munge / "log").read_text())
        self._start("slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        wait_until(self._is_ready, 30, self._logs)

    def stop(self) -> None:
        """End every job and daemon; fails when a process of this cluster is left."""
        with contextlib.suppress(AssertionError):  # a controller that never came up has no jobs
            self.command("scancel", "--user=root")
            self.command("scancel", "--state=RUNNING", "--signal=KILL", "--full")
            wait_until(lambda: not self.command("squeue", "--noheader").strip(), 30, self._logs)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            daemon.wait(20)
        wait_until(lambda: not self.processes(), 20, lambda: f"still running: {self.processes()}")

    def processes(self) -> dict[int, str]:
        """Process ids and command lines of whatever runs under this cluster, jobs included."""
        mark, found = f"SLURM_CONF={self.folder}/slurm.conf".encode(), {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    found[int(process.name)] = line
        return {number: line for number, line in found.items() if line}  # an ended one that is not reaped has none

    def _start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.{len(self._daemons)}.log").open("w") as log:
            self._daemons.append(
                subprocess.Popen(
                    [name, *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
                )
            )

    def _is_ready(self) -> bool:
        words = ["sinfo", "--noheader", "--Node", "--partition=debug", "--format=%T"]
        states = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        return states.stdout.split() == ["idle", "idle"]

    def _logs(self) -> str:
        return "\n".join(f"{log.name}:\n{log.read_text()[-1000:]}" for log in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """A cluster in an empty folder, stopped on leaving; skips the test where SLURM cannot be had."""
    if reason := why_there_is_no_slurm():
        pytest.skip(reason)
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def wait_until(condition: Callable[[], Any], timeout_sec: float, describe: Callable[[], str]) -> Any:
    """The first true answer of `condition`; fails with a description after `timeout_sec`."""
    end = time.monotonic() + timeout_sec
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_sec} s in vain. {describe()}")
