"""The lock and the record of a run folder, with real processes and real kills."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whale.errors import UserError
from whale.run_folder import RunFolder, RunRecord, is_held, occupy, read_record

HOLD = """
import os, signal, sys, time
from pathlib import Path
from whale.run_folder import occupy
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for what it starts in the background
with occupy(Path(sys.argv[1]), "pretrain dynamics", 8, 2) as run:
    run.begin(3)
    child = os.fork()
    if not child:
        time.sleep(600)
    print(child, flush=True)
    time.sleep(600)
"""
ATTEMPT = """
import sys
from pathlib import Path
from whale.errors import UserError
from whale.run_folder import is_held, occupy
try:
    with occupy(Path(sys.argv[1]), "pretrain dynamics", 8, 1) as run:
        run.end("finished", 8)
except UserError as error:
    print(error)
"""


def attempt(folder: Path) -> str:
    """What another process is told that tries to occupy `folder`; nothing where it could."""
    answer = subprocess.run([sys.executable, "-c", ATTEMPT, str(folder)], capture_output=True, text=True, check=True)
    return answer.stdout


@contextmanager
def holder(folder: Path, **variables: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds `folder`, and the child that it forked."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process, child
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)
        process.communicate()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"


def finish(folder: Path, task: str = "pretrain tokenizer") -> RunRecord:
    with occupy(folder, task, 8, 1) as run:
        run.begin(0)
        run.end("finished", 8)
    return run.record


def test_a_second_process_is_refused_with_the_holders_name_and_changes_nothing(tmp_path):
    with holder(tmp_path / "run", SLURM_JOB_ID="4711") as (process, _):
        before = (tmp_path / "run/status.json").read_bytes()
        with pytest.raises(UserError, match="in use") as error, occupy(tmp_path / "run", "pretrain dynamics", 8, 1):
            pytest.fail("two processes hold one folder")
        for part in (f"process {process.pid} on {socket.gethostname()}", "SLURM job 4711", "since 20", "remedy"):
            assert part in str(error.value)
        assert (tmp_path / "run/status.json").read_bytes() == before
        assert is_held(tmp_path / "run") and process.poll() is None
        assert attempt(tmp_path / "run")  # the refused process did not take the lock with it


def test_a_killed_process_lets_go_at_once_though_its_children_live(tmp_path):
    with holder(tmp_path) as (process, child):
        process.kill()
        process.wait()
        assert alive(child)
        assert is_held(tmp_path) is False
        record = finish(tmp_path, "pretrain dynamics")
        assert alive(child)
    assert (record.attempt, record.state, record.pid) == (2, "finished", os.getpid())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGINT])
def test_however_it_dies(tmp_path, number):
    with holder(tmp_path) as (process, _):
        assert is_held(tmp_path)
        process.send_signal(number)
        process.wait()
        assert is_held(tmp_path) is False
        assert attempt(tmp_path) == ""


def test_nested_runs_and_runs_one_after_the_other_in_one_process(tmp_path):
    with occupy(tmp_path, "finetune world_model", 8, 1) as outer:
        for count in (1, 3):
            assert finish(tmp_path / "tokenizer").attempt == count
            assert attempt(tmp_path), "the inner run let go of the outer folder"
            assert attempt(tmp_path / "tokenizer") == "", "the inner folder is still held"
        outer.end("finished", 8)
    assert attempt(tmp_path) == ""


def test_the_same_folder_twice_in_one_process_is_a_mistake_that_leaves_the_lock(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with occupy(tmp_path, "pretrain dynamics", 8, 1) as run:
        with pytest.raises(RuntimeError, match="already"), occupy(tmp_path / "link", "pretrain dynamics", 8, 1):
            pytest.fail("occupied twice")
        assert attempt(tmp_path)
        run.end("finished", 8)


def test_asking_in_the_holders_own_process_does_not_drop_the_lock(tmp_path):
    assert is_held(tmp_path) is False
    with occupy(tmp_path, "pretrain dynamics", 8, 1) as run:
        assert is_held(tmp_path) is True
        assert attempt(tmp_path)
        run.end("finished", 8)
    assert is_held(tmp_path) is False


CONTEND = """
import os, sys, time
from pathlib import Path
from whale.errors import UserError
from whale.run_folder import occupy
folder, won, refused = Path(sys.argv[1]), 0, 0
while won < 25:
    try:
        with occupy(folder, "pretrain dynamics", 8, 1) as run:
            os.close(os.open(folder / "mine", os.O_CREAT | os.O_EXCL))
            run.end("finished", 8)
            os.unlink(folder / "mine")
        won += 1
    except UserError:
        refused += 1
        time.sleep(0.001)  # two that only ask would leave no processor to the one that holds it
print(refused)
"""


def test_of_many_processes_one_at_a_time_holds_the_folder(tmp_path):
    command = [sys.executable, "-c", CONTEND, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    refused = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(refused) > 0, "they never met: the test shows nothing"
    assert read_record(tmp_path).attempt == 75


def test_looking_at_a_lock_never_refuses_a_starting_job(tmp_path):
    look = (
        "import sys\nfrom pathlib import Path\nfrom whale.run_folder import is_held\nseen = set()\n"
        "print('looking', flush=True)\nwhile not Path(sys.argv[1], 'enough').exists():\n"
        "    seen.add(is_held(Path(sys.argv[1])))\nassert seen == {True, False}, seen\n"
    )
    process = subprocess.Popen([sys.executable, "-c", look, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline()
    for _ in range(200):
        finish(tmp_path)
    (tmp_path / "enough").touch()
    process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_filesystem_without_locks_is_told_once_and_noted(tmp_path, monkeypatch, capsys, code):
    def no_locks(*_: object) -> None:  # stands in for the filesystem
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    monkeypatch.setattr(fcntl, "fcntl", no_locks)
    assert finish(tmp_path).locked is False
    said = capsys.readouterr().out
    assert said.count("without locks") == 1 and str(tmp_path) in said
    assert json.loads((tmp_path / "status.json").read_text())["locked"] is False
    assert is_held(tmp_path) is None


def test_another_error_of_the_lock_is_not_taken_for_a_filesystem_without_locks(tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(fcntl, "lockf", broken)
    with pytest.raises(OSError, match="input/output"), occupy(tmp_path, "pretrain dynamics", 8, 1):
        pytest.fail("went on")


def test_the_record_tells_what_runs_and_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    before = datetime.now(timezone.utc)
    with occupy(tmp_path / "run", "pretrain dynamics", 800, 4) as run:
        starting = read_record(tmp_path / "run")
        run.begin(200)
        running = read_record(tmp_path / "run")
        run.end("stopped", 500, "SIGUSR1")
    ended = read_record(tmp_path / "run")
    assert (starting.state, starting.first_step, starting.attempt, starting.message) == ("running", None, 1, "")
    assert (starting.task, starting.steps, starting.world_size) == ("pretrain dynamics", 800, 4)
    assert (starting.host, starting.pid, starting.slurm_job) == (socket.gethostname(), os.getpid(), "77")
    assert starting.locked and before <= starting.started <= datetime.now(timezone.utc)
    assert (running.state, running.first_step, running.ended) == ("running", 200, None)
    assert (ended.state, ended.step, ended.message) == ("stopped", 500, "SIGUSR1")
    assert ended.ended is not None and ended.ended >= ended.started
    assert json.loads((tmp_path / "run/status.json").read_text())["started"].endswith("Z")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("the loss is nan at step 5\nmore", "lower the rate"), "the loss is nan at step 5"),
        (RuntimeError("out of memory\nsecond line"), "RuntimeError: out of memory"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("x" * 5000), f"ValueError: {'x' * 300}"),
    ],
)
def test_an_exception_is_noted_and_passes_through(tmp_path, error, message):
    with pytest.raises(type(error)) as caught, occupy(tmp_path, "pretrain dynamics", 8, 1) as run:
        run.begin(0)
        raise error
    assert caught.value is error
    record = read_record(tmp_path)
    assert (record.state, record.message, record.step) == ("failed", message, None)
    assert attempt(tmp_path) == ""


def test_an_exit_after_the_end_does_not_change_the_record(tmp_path):
    with pytest.raises(SystemExit), occupy(tmp_path, "pretrain dynamics", 8, 1) as run:
        run.end("stopped", 3, "SIGTERM")
        raise SystemExit(75)
    assert read_record(tmp_path).state == "stopped"


def test_leaving_without_saying_how_is_a_mistake(tmp_path):
    with pytest.raises(AssertionError, match="says how it ended"), occupy(tmp_path, "pretrain dynamics", 8, 1):
        pass
    assert read_record(tmp_path).state == "failed"


FULL = """
import resource, sys
from pathlib import Path
from whale.run_folder import occupy
with occupy(Path(sys.argv[1]), "pretrain dynamics", 8, 1) as run:
    run.begin(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # no file can grow any more
    raise RuntimeError("the checkpoint could not be written")
"""


def test_where_the_failure_cannot_be_noted_either_the_error_itself_comes_out(tmp_path):
    answer = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr.strip().endswith("RuntimeError: the checkpoint could not be written")
    assert "could not note in" in answer.stdout
    assert read_record(tmp_path).state == "running" and is_held(tmp_path) is False  # which reads as killed
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "status.json"}


GOOD = {
    "task": "pretrain dynamics", "state": "running", "attempt": 1, "started": "2025-01-01T00:00:00Z", "first_step": 0,
    "steps": 8, "world_size": 1, "host": "n1", "pid": 1, "slurm_job": None, "locked": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "Invalid JSON"),
        (json.dumps(GOOD).encode()[:60], "Invalid JSON"),
        (b"\xff\xfe\x00", "Invalid JSON"),
        (b"[1]", "should be an object"),
        (b'{"state": "running"}', "task: Field required"),
        (json.dumps({**GOOD, "state": "walking"}).encode(), "state"),
        (json.dumps({**GOOD, "attempt": "many"}).encode(), "attempt"),
        (json.dumps({**GOOD, "steps": 0}).encode(), "steps"),
        (json.dumps({**GOOD, "started": "2025-01-01T00:00:00"}).encode(), "timezone"),
    ],
)
def test_a_damaged_record_is_named_and_the_lock_let_go(tmp_path, content, fault):
    (tmp_path / "status.json").write_bytes(content)
    for read in (read_record, finish):
        with pytest.raises(UserError, match="delete it") as error:
            read(tmp_path)
        assert str(tmp_path / "status.json") in str(error.value) and fault in str(error.value)
    assert is_held(tmp_path) is False
    (tmp_path / "status.json").unlink()
    assert finish(tmp_path).attempt == 1


TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc))
RECORDS = st.builds(
    RunRecord, task=st.text(), attempt=st.integers(1, 10**6), started=TIMES, steps=st.integers(1), host=st.text(),
    slurm_job=st.none() | st.text(), ended=st.none() | TIMES, message=st.text(),
)  # fmt: skip


@given(record=RECORDS)
def test_what_is_written_is_read_back_equal(record, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    RunFolder(folder, record)
    assert read_record(folder) == record


def test_reading_while_the_record_is_rewritten_always_finds_a_whole_one(tmp_path):
    write = (
        "import sys\nfrom pathlib import Path\nfrom whale.run_folder import occupy\n"
        "with occupy(Path(sys.argv[1]), 'pretrain dynamics', 10**6, 1) as run:\n"
        "    for step in range(400):\n        run.begin(step)\n    run.end('finished', 400)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", write, str(tmp_path)])
    seen, start = set(), time.monotonic()
    while process.poll() is None and time.monotonic() - start < 60:
        if (tmp_path / "status.json").is_file():
            seen.add(read_record(tmp_path).first_step)
    assert process.wait() == 0 and len(seen) > 2
    assert read_record(tmp_path).started < datetime.now(timezone.utc) + timedelta(seconds=1)
