"""lib.sh in jobs of a real cluster, around a program that keeps to the exit codes of `whale`."""

import json
from pathlib import Path

import pytest
from slurm_cluster import Job, wait_until

pytestmark = pytest.mark.slow


def notes(folder: Path, task: str, restart: int, array_task: str = "x") -> list[dict]:
    """What each rank of a job was given, once it has begun."""
    files = sorted(folder.glob(f"{task}.{array_task}.{restart}.*.json"))
    return [json.loads(file.read_text()) for file in files]


def begun(job: Job, folder: Path, task: str, ranks: int, restart: int = 0, array_task: str = "x") -> list[dict]:
    """Wait until every rank runs."""
    found = lambda: len(now := notes(folder, task, restart, array_task)) == ranks and now  # noqa: E731
    return wait_until(found, 90, lambda: f"{job.describe()}\n{log(job, folder)}")


def log(job: Job, folder: Path) -> str:
    return "\n".join(file.read_text() for file in sorted(folder.glob(f"slurm-{job.number}*.out")))


@pytest.fixture
def submit(cluster, folder):
    def submit(stage: str, *words: str, options: tuple[str, ...] = ()) -> Job:
        return cluster.submit(*options, f"slurm/{stage}.sbatch", *words, cwd=folder)

    return submit


TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")


def test_a_signalled_run_is_queued_again_and_finishes(submit, cluster, folder):
    job = submit("pretrain", "trains", "a.yaml", "x=[1, 2]", options=(*TWO_NODES, "--cpus-per-task=3"))
    first, second = begun(job, folder, "trains", 2)
    assert first["words"] == ["pretrain", "trains", "a.yaml", "x=[1, 2]"]
    ranks = [(note["RANK"], note["LOCAL_RANK"], note["WORLD_SIZE"]) for note in (first, second)]
    assert ranks == [("0", "0", "2"), ("1", "0", "2")]
    assert first["MASTER_ADDR"] == second["MASTER_ADDR"] == "127.0.0.1"  # n1 is no name that could be looked up
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert first["OMP_NUM_THREADS"] == "3"
    cluster.command("scancel", "--signal=USR1", "--batch", job.number)
    again = begun(job, folder, "trains", 2, restart=1)
    assert again[0]["words"] == first["words"]
    assert job.wait() == ["COMPLETED"]
    assert notes(folder, "trains", restart=2) == []
    assert "restart 1 of at most 2" in log(job, folder)


def test_the_time_limit_saves_and_queues_again(submit, folder):
    """SLURM sends USR1 up to a minute before it is due: here in the first half minute of two."""
    job = submit("finetune", "trains", "a.yaml", options=("--time=2", "--signal=B:USR1@90"))
    begun(job, folder, "trains", 1)
    assert job.wait(timeout_sec=150) == ["COMPLETED"]
    assert len(notes(folder, "trains", restart=1)) == 1


def test_a_preempted_run_is_queued_again_and_finishes(submit, cluster, folder):
    job = submit("pretrain", "trains", "a.yaml", options=(*TWO_NODES, "--cpus-per-task=16"))
    begun(job, folder, "trains", 2)
    urgent = cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true", cwd=folder)
    assert urgent.wait() == ["COMPLETED"]
    assert job.wait() == ["COMPLETED"]
    assert len(notes(folder, "trains", restart=1)) == 2


def test_a_job_whose_node_fails_is_queued_again(submit, cluster, folder):
    job = submit("pretrain", "trains", "a.yaml", options=TWO_NODES)
    begun(job, folder, "trains", 2)
    cluster.command("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    assert job.wait() == ["COMPLETED"]
    assert len(notes(folder, "trains", restart=1)) == 2


def test_of_an_array_only_the_signalled_task_is_queued_again(submit, cluster, folder):
    """A program that handles no signal is ended by it. The task that has the number of the whole array is signalled."""
    job = submit("data_prep", "converts", "a.yaml", options=("--array=0-1",))
    begin = [begun(job, folder, "converts", 1, array_task=str(task))[0] for task in (0, 1)]
    assert [note["words"][-2:] for note in begin] == [["task=0", "tasks=2"], ["task=1", "tasks=2"]]
    (chosen,) = (task for task, note in enumerate(begin) if note["SLURM_JOB_ID"] == job.number)
    cluster.command("scancel", "--signal=USR1", "--batch", f"{job.number}_{chosen}")
    (again,) = begun(job, folder, "converts", 1, restart=1, array_task=str(chosen))
    assert again["words"] == begin[chosen]["words"]
    assert notes(folder, "converts", 1, str(1 - chosen)) == []
    cluster.command("scancel", job.number)
    job.wait()


@pytest.mark.parametrize(("task", "code"), [("fails", 1), ("refuses", 2)])
def test_a_job_that_fails_is_not_queued_again(submit, folder, task, code):
    job = submit("eval", task, "a.yaml")
    assert job.wait() == ["FAILED"]
    assert job.tasks()[0]["ExitCode"] == f"{code}:0"
    assert job.tasks()[0]["Restarts"] == "0"


def test_a_job_that_only_goes_round_ends(submit, folder):
    job = submit("pretrain", "never_ends", "a.yaml")
    assert job.wait() == ["FAILED"]
    assert len(notes(folder, "never_ends", restart=2)) == 1
    assert "restarted 2 times, which is the limit" in log(job, folder)


def test_a_cancelled_job_stays_cancelled(submit, cluster, folder):
    """It is signalled too, saves and exits with 75."""
    job = submit("pretrain", "trains", "a.yaml", options=TWO_NODES)
    begun(job, folder, "trains", 2)
    cluster.command("scancel", job.number)
    wait_until(lambda: "not queued again" in log(job, folder), 20, lambda: log(job, folder))
    assert job.wait() == ["CANCELLED"]


def test_without_a_site_file_the_job_says_what_to_do(submit, folder):
    (folder / "slurm/site.sh").unlink()
    job = submit("eval", "report", "a.yaml")
    assert job.wait() == ["FAILED"]
    assert "cp slurm/site.example.sh slurm/site.sh" in log(job, folder)
