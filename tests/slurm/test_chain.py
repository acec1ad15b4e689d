"""chain.sh: what it submits, and what it refuses to."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from slurm_cluster import Job

REPO = Path(__file__).resolve().parent.parent.parent

CHAIN = """\
# A comment.
stage data_prep collect a.yaml
stage --array=0-3%2 data_prep convert b.yaml 'x=[1, 2]'
stage --nodes=2 --time=5 pretrain dynamics c.yaml d.yaml
"""


@pytest.fixture
def chain(folder):
    """Run chain.sh in the folder with lines written to a file."""

    def run(lines: str, *flags: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        (folder / "my.chain").write_text(lines)
        return subprocess.run(
            ["slurm/chain.sh", *flags, "my.chain"], cwd=folder, env=environment or dict(os.environ),
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def commands(shown: str) -> list[list[str]]:
    return [shlex.split(line) for line in shown.splitlines() if line.startswith("sbatch ")]


def test_a_dry_run_shows_each_stage_waiting_for_the_one_before_and_submits_nothing(chain, folder):
    (folder / "bin").mkdir()
    (folder / "bin/sbatch").write_text("#!/bin/sh\ntouch submitted\n")
    (folder / "bin/sbatch").chmod(0o755)
    ran = chain(CHAIN, "--dry-run", environment={**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"})
    assert (ran.returncode, ran.stderr) == (0, "")
    log, wait = "--output=runs/slurm/%x-%j.log", "--kill-on-invalid-dep=yes"
    assert commands(ran.stdout) == [
        ["sbatch", "--parsable", "--job-name=data_prep-collect", log, "slurm/data_prep.sbatch", "collect", "a.yaml"],
        ["sbatch", "--parsable", "--array=0-3%2", "--job-name=data_prep-convert", log, "--dependency=afterok:JOB1",
         wait, "slurm/data_prep.sbatch", "convert", "b.yaml", "x=[1, 2]"],
        ["sbatch", "--parsable", "--ntasks-per-node=1", "--cpus-per-task=2", "--nodes=2", "--time=5",
         "--job-name=pretrain-dynamics", log, "--dependency=afterok:JOB2", wait,
         "slurm/pretrain.sbatch", "dynamics", "c.yaml", "d.yaml"],
    ]  # fmt: skip
    assert not (folder / "submitted").exists() and not (folder / "runs").exists()


def test_the_shipped_chains_load_their_configurations(chain, folder):
    (folder / "whale/__main__.py").unlink()
    (folder / "whale").rmdir()  # so that it is the real one
    (folder / "configs").symlink_to(REPO / "configs")
    for name, stages in (("tabletop", 7), ("oxe", 7)):
        ran = chain((REPO / f"slurm/{name}.chain").read_text(), "--dry-run")
        assert ran.returncode == 0, ran.stderr
        assert len(commands(ran.stdout)) == stages
    broken = chain("stage pretrain dynamics configs/pretrain/tabletop_dynamics.yaml data.bacth=8", "--dry-run")
    assert broken.returncode == 2
    assert "data.bacth: unknown key; did you mean 'batch'?" in broken.stderr
    assert "nothing was submitted" in broken.stderr


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "slurm/site.sh").unlink(), "cp slurm/site.example.sh slurm/site.sh"),
        (lambda folder: (folder / "my.chain").write_text("stage eval x missing.yaml"), "correct `stage eval x missing"),
        (lambda folder: (folder / "my.chain").unlink(), "there is no chain my.chain"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_submitted(folder, spoil, message):
    (folder / "my.chain").write_text(CHAIN)
    spoil(folder)
    ran = subprocess.run(["slurm/chain.sh", "my.chain"], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert message in ran.stderr and "sbatch" not in ran.stdout


def jobs_of(shown: str, cluster) -> list[Job]:
    return [Job(cluster, line.split()[-1]) for line in shown.splitlines() if line.startswith("    is job ")]


@pytest.mark.slow
def test_a_stage_that_fails_stops_the_chain(chain, cluster, folder):
    stages = "data_prep prepares", "eval fails", "--array=0-1 data_prep next", "eval last"
    ran = chain("".join(f"stage {stage} a.yaml\n" for stage in stages), environment=cluster.environment)
    assert ran.returncode == 0, ran.stderr
    jobs = jobs_of(ran.stdout, cluster)
    assert [set(job.wait()) for job in jobs] == [{"COMPLETED"}, {"FAILED"}, {"CANCELLED"}, {"CANCELLED"}]
    assert {file.name.partition(".")[0] for file in folder.glob("*.json")} == {"prepares", "fails"}
    assert len(list((folder / "runs/slurm").glob("eval-fails-*.log"))) == 1


@pytest.mark.slow
def test_a_stage_that_slurm_refuses_takes_the_chain_back(chain, cluster):
    lines = "stage --hold eval report a.yaml\nstage --partition=x eval report a.yaml\n"
    ran = chain(lines, environment=cluster.environment)
    assert ran.returncode == 2 and "taken back" in ran.stderr
    (job,) = jobs_of(ran.stdout, cluster)
    assert job.wait() == ["CANCELLED"]


def shown_commands() -> list[str]:
    """Lines of the guide's chains, and the line at the top of each sbatch script, as `whale` commands."""
    guide = re.findall(r"^    stage (?:--\S+ )*(.+)$", (REPO / "slurm/README.md").read_text(), re.MULTILINE)
    heads = [re.sub(r"\\\n#\s*", "", file.read_text()) for file in sorted((REPO / "slurm").glob("*.sbatch"))]
    lines = [re.search(r"^#   sbatch .*slurm/(\w+)\.sbatch (.+)$", head, re.MULTILINE) for head in heads]
    return [f"whale {words}" for words in guide] + [f"whale {line[1]} {line[2]}" for line in lines]


def test_the_commands_shown_load_their_configurations(written_command):
    commands = shown_commands()
    assert len(commands) == 9
    for text in commands:
        written_command(text).config()
