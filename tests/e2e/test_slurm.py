"""The shipped chain on a SLURM cluster of two nodes, disturbed: the same clips and weights as undisturbed.

A task of the conversion is killed, which stops the chain; it is submitted again, and the two-node training under ZeRO-1
is signalled, saves, is queued again and finishes. Everything is the tabletop pipeline, made small by overrides.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from slurm_cluster import Job, SlurmCluster, free_ports, running_cluster, wait_until

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parent.parent.parent
SITE = f"""\
DATA_PREP=() PRETRAIN=() FINETUNE=() EVAL=()
MAX_RESTARTS=2
activate() {{
    export PATH={Path(sys.executable).parent}:$PATH
}}
export GLOO_SOCKET_IFNAME=lo
"""
SMALLER = {
    "collect": "episodes=96 steps=24 shards=8",
    "convert": "",
    "tokenizer": "loop.steps=6 model.quantizer.num_codes=64 initial_clips=12 validation_clips=4",
    "tokenize": "",
    "dynamics": "loop.steps=60 loop.log_every=1 loop.validate_every=60 loop.milestones=[] "
    "dynamics.width=32 dynamics.depth=1 validation.batches=1",
    "fidelity": "max_episodes=8 min_episodes=4 horizons=[1,8]",
    "report": "",
}


CLIPS = "runs/demo/clips/standard"


def smaller_chain() -> dict[str, str]:
    """The shipped chain's line of each task, with overrides."""
    lines = (REPO / "slurm/tabletop.chain").read_text().replace("\\\n", "").splitlines()
    stages = [line for line in lines if line.startswith("stage ")]
    return {task: f"{line} {SMALLER[task]}" for line, task in zip(stages, SMALLER, strict=True)}


@dataclass(frozen=True)
class Chained:
    """What became of the chain: its jobs when it was stopped, what was there then, and its jobs when it went on."""

    folder: Path
    stopped: dict[str, Job]
    was_done: dict[str, int]
    was_whole: bool
    finished: dict[str, Job]

    def log(self, job: Job) -> str:
        return "\n".join(file.read_text() for file in self.folder.glob(f"runs/slurm/*-{job.number}.log"))


def submit(cluster: SlurmCluster, folder: Path, lines: dict[str, str]) -> dict[str, Job]:
    (folder / "my.chain").write_text("\n".join(lines.values()))
    shown = cluster.command("slurm/chain.sh", "my.chain", cwd=folder)
    numbers = [line.split()[-1] for line in shown.splitlines() if line.startswith("    is job ")]
    return {task: Job(cluster, number) for task, number in zip(lines, numbers, strict=True)}


def ranks_of(job: Job, last_words: str) -> dict[str, int]:
    """Process ids, by rank, of the programs that run in the cluster with these words at the end of their command."""
    lines = job.cluster.processes().items()
    found = [pid for pid, line in lines if line.startswith("python -m whale") and line.endswith(last_words)]
    return {re.search(r"\0RANK=(\d+)\0", Path(f"/proc/{pid}/environ").read_text())[1]: pid for pid in found}


def wait_for_steps(job: Job, run: Path) -> None:
    """Wait until a few steps of training are made."""
    metrics = run / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 5, 240, job.describe)


@pytest.fixture(scope="module")
def chained(tmp_path_factory) -> Iterator[Chained]:
    folder = tmp_path_factory.mktemp("submitted")
    shutil.copytree(REPO / "slurm", folder / "slurm")
    (folder / "slurm/site.sh").write_text(SITE)
    (folder / "configs").symlink_to(REPO / "configs")
    lines = smaller_chain()
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        stopped = submit(cluster, folder, lines)
        words = "task=1 tasks=2"  # it has four input shards, of which it does one
        (killed,) = wait_until(lambda: ranks_of(stopped["convert"], words).values(), 90, stopped["convert"].describe)
        wait_until((folder / CLIPS / "records/00001.json").exists, 60, stopped["convert"].describe)
        os.kill(killed, signal.SIGKILL)
        stopped["report"].wait()
        was_done, was_whole = records(folder), (folder / CLIPS / "manifest.json").exists()
        del lines["collect"]
        finished = submit(cluster, folder, lines)
        wait_for_steps(finished["dynamics"], folder / "runs/demo/dynamics")
        cluster.command("scancel", "--signal=USR1", "--batch", finished["dynamics"].number)  # as SLURM sends it
        finished["report"].wait(timeout_sec=240)
        yield Chained(folder, stopped, was_done, was_whole, finished)


def records(folder: Path) -> dict[str, int]:
    """When each input shard was done, in nanoseconds."""
    return {file.name: file.stat().st_mtime_ns for file in (folder / CLIPS / "records").glob("*.json")}


def start_whale(folder: Path, *words: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "whale", *words], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    """What it printed, once it has ended well."""
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return out


def words_of(task: str) -> list[str]:
    """The `whale` words of a line of the chain."""
    words = shlex.split(smaller_chain()[task])[1:]
    return [word for word in words if not word.startswith("--")]


def test_a_killed_task_stops_the_chain(chained):
    states = {task: job.states() for task, job in chained.stopped.items()}
    assert states.pop("collect") == ["COMPLETED"]
    assert sorted(states.pop("convert")) == ["COMPLETED", "FAILED"]
    assert states == {task: ["CANCELLED"] for task in states}
    assert not chained.was_whole


def test_submitted_again_the_conversion_does_the_rest_and_ends_the_same(chained):
    assert "00001.json" in chained.was_done and len(chained.was_done) < 8
    now = records(chained.folder)
    assert len(now) == 8 and chained.was_done.items() <= now.items()
    finish(start_whale(chained.folder, *words_of("convert"), "out=runs/undisturbed/clips"))
    manifests = [chained.folder / clips / "manifest.json" for clips in (CLIPS, "runs/undisturbed/clips")]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()


def test_the_signalled_training_was_queued_again_and_ends_with_the_same_weights(chained):
    job = chained.finished["dynamics"]
    assert job.states() == ["COMPLETED"] and job.tasks()[0]["Restarts"] == "1"
    (step,) = re.findall(r"going on from \S+/step_(\d+)", chained.log(job))
    assert 5 < int(step) < 60
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]), "GLOO_SOCKET_IFNAME": "lo"}
    words = [*words_of("dynamics"), "run=runs/undisturbed/dynamics"]
    ranks = [{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"} for rank in ("0", "1")]
    for process in [start_whale(chained.folder, *words, **rank, **meet) for rank in ranks]:
        finish(process)
    exports = [chained.folder / "runs" / name / "dynamics/export" for name in ("demo", "undisturbed")]
    mine, other = (load_file(export / "model.safetensors") for export in exports)
    assert mine.keys() == other.keys()
    assert all(mine[name].equal(other[name]) for name in mine)


def test_the_evaluation_follows_and_its_verdict_ends_the_chain(chained):
    """Nothing is learned in 60 steps: figures do not hold, so the report exits with 1 and its job fails."""
    assert chained.finished["fidelity"].states() == ["COMPLETED"]
    (report,) = chained.finished["report"].tasks()
    assert (report["JobState"], report["ExitCode"]) == ("FAILED", "1:0")
    assert (chained.folder / "runs/demo/eval/report.html").exists()


def test_status_tells_of_the_restart(chained):
    (status,) = json.loads(finish(start_whale(chained.folder, "status", "runs/demo/dynamics", "--json")))
    assert (status["state"], status["step"], status["restarts"]) == ("finished", 60, 1)


def test_a_rank_that_dies_stops_the_others_within_a_minute_and_the_job_fails(chained):
    cluster = chained.stopped["dynamics"].cluster
    words = ["loop.steps=100000", "data.workers=0", "run=runs/dies/dynamics"]
    options = ("--nodes=2", "--ntasks-per-node=1", "--output=dies.log", "slurm/pretrain.sbatch")
    job = cluster.submit(*options, *words_of("dynamics")[1:], *words, cwd=chained.folder)
    wait_for_steps(job, chained.folder / "runs/dies/dynamics")
    second = ranks_of(job, words[-1])["1"]
    killed = time.monotonic()
    os.kill(second, signal.SIGKILL)
    assert job.wait() == ["FAILED"]
    assert time.monotonic() - killed < 60
    assert job.tasks()[0]["Restarts"] == "0"
    log = (chained.folder / "dies.log").read_text()
    assert f"rank 0 stops: rank 1 ({socket.gethostname()}, pid {second}) has died" in log, log
