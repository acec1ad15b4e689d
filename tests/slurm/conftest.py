"""A folder to submit from: the scripts of slurm/, a site file, and a stand-in for `whale` with its exit codes."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, running_cluster

REPO = Path(__file__).resolve().parent.parent.parent

SITE = f"""\
DATA_PREP=() PRETRAIN=(--ntasks-per-node=1 --cpus-per-task=2) FINETUNE=() EVAL=()
MAX_RESTARTS=2
activate() {{
    export PATH={Path(sys.executable).parent}:$PATH
}}
"""

# `python -m whale` finds this before the installed package, because it lies in the folder that the job runs in.
WHALE = '''\
"""Notes what it was given, then behaves as the first word after the stage says."""

import json, os, signal, sys, time
from pathlib import Path

(stage, task, *words) = sys.argv[1:]
if "--print-config" in words:
    sys.exit(2 if "missing.yaml" in words else 0)
rank = int(os.environ["RANK"])
restart = int(os.environ.get("SLURM_RESTART_COUNT", 0))
names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "SLURM_JOB_ID"]
signals = []
if task == "trains":  # until it is signalled; once it was, it has nothing more to do
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
note = {"words": [stage, task, *words], **{name: os.environ.get(name) for name in names}}
name = f"{task}.{os.environ.get('SLURM_ARRAY_TASK_ID', 'x')}.{restart}.{rank}.json"
Path(f".{name}").write_text(json.dumps(note))
Path(f".{name}").rename(name)
if task == "trains" and restart == 0:
    while not signals:
        time.sleep(0.05)
    for number in (signal.SIGUSR1, signal.SIGTERM):  # it has saved, and is about to leave
        signal.signal(number, signal.SIG_DFL)
    time.sleep(rank)  # the ranks of a run do not leave at the same moment
    sys.exit(75)
if task == "converts" and restart == 0:
    time.sleep(600)
sys.exit({"fails": 1, "refuses": 2, "never_ends": 75}.get(task, 0))
'''


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder that jobs can be submitted from."""
    shutil.copytree(REPO / "slurm", tmp_path / "slurm", ignore=shutil.ignore_patterns("site.sh"))
    (tmp_path / "slurm/site.sh").write_text(SITE)
    (tmp_path / "whale").mkdir()
    (tmp_path / "whale/__main__.py").write_text(WHALE)
    return tmp_path


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[SlurmCluster]:
    """A SLURM cluster of two nodes."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
