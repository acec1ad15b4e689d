"""The cluster of the tests leaves nothing behind."""

import contextlib
from pathlib import Path

import pytest
from slurm_cluster import running_cluster, wait_until

pytestmark = pytest.mark.slow


def processes_that_mention(folder: Path) -> list[str]:
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_text().replace("\0", " ")
            if str(folder) in line + (process / "environ").read_text():
                lines.append(line)
    return lines


def test_stopping_ends_every_daemon_and_a_job_that_does_not_want_to_end(tmp_path):
    with running_cluster(tmp_path / "cluster") as cluster:
        words = ["srun", "bash", "-c", "trap '' TERM INT HUP; touch begun; while :; do sleep 1; done"]
        script = tmp_path / "job.sh"
        script.write_text(f"#!/bin/bash\n{' '.join(words[:3])} \"{words[3]}\"\n")
        job = cluster.submit(str(script), cwd=tmp_path)
        wait_until((tmp_path / "begun").exists, 60, job.describe)
        running = processes_that_mention(tmp_path)
        assert {"munged", "slurmctld", "slurmd", "slurmstepd:", "srun"} <= {line.partition(" ")[0] for line in running}
    assert processes_that_mention(tmp_path) == []
