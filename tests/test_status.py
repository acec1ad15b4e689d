"""`whale status`: every state of a run made for real, figures whose answer is known, and damaged folders."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_clips import pixel_folder

from whale import cli
from whale.clips.loader import DataConfig, DataSource
from whale.config import dump_config
from whale.errors import UserError
from whale.loop import LoopConfig
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import TokenizerConfig
from whale.optim import OptimConfig
from whale.pretrain.config import TrainTokenizerConfig
from whale.pretrain.train_tokenizer import train_tokenizer
from whale.publish import publish_folder
from whale.run_folder import RunFolder, RunRecord, occupy, read_record
from whale.status import SILENT_SEC, WINDOW, find_runs, run_status
from whale.status_text import as_blocks, as_table

RUN = """
import signal, sys, time
from pathlib import Path
from whale.checkpoint_folder import COMPLETE, find_checkpoints
from whale.errors import UserError
from whale.publish import publish_folder
from whale.run_folder import occupy
from whale.tracker import Tracker, TrackerConfig

folder, last, got = Path(sys.argv[1]), int(sys.argv[2]), []
signal.signal(signal.SIGUSR1, lambda number, frame: got.append(signal.Signals(number).name))
with occupy(folder, "pretrain dynamics", 8, 1) as run:
    found = find_checkpoints(folder / "checkpoints")
    step = found[-1].step if found else 0
    run.begin(step)
    tracker = Tracker(TrackerConfig(), folder, {}, resumed_step=step or None)
    while step < last:
        time.sleep(0.01)
        step += 1
        tracker.log(step, {"loss": 1 / step})
        if step % 2 == 0:
            tracker.log(step, {"val/psnr": 20.0 + step})
            with publish_folder(folder / f"checkpoints/step_{step:07d}") as temporary:
                (temporary / COMPLETE).write_text("{}")
    if last == 8:
        run.end("finished", step)
    elif len(sys.argv) > 3:
        raise UserError(f"the loss is nan at step {step}", "lower the learning rate")
    else:
        print("waiting", flush=True)
        while not got:
            time.sleep(0.01)
        run.end("stopped", step, got[0])
        sys.exit(75)
"""


def start(folder: Path, last: int, *words: str) -> subprocess.Popen[str]:
    """A run that logs, validates and saves as training does, and waits for a signal after step `last`."""
    command = [sys.executable, "-c", RUN, str(folder), str(last), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def waiting(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdout is not None and process.stdout.readline() == "waiting\n"
    return process


def whale_status(*words: str) -> str:
    command = [sys.executable, "-m", "whale", "status", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_every_state_of_a_run_from_its_first_kill_to_its_end(tmp_path):
    process = waiting(start(tmp_path, 3))
    running = run_status(tmp_path)
    assert (running.state, running.note, running.step, running.steps) == ("running", "", 3, 8)
    assert (running.restarts, running.pid, running.ended) == (0, process.pid, None)
    assert running.loss == 1 / 3 and (running.validation_step, running.validation) == (2, {"psnr": 22.0})
    assert running.checkpoint_step == 2 and 0 <= (running.checkpoint_age_sec or -1) < 60
    assert running.steps_per_sec is not None and running.eta_sec is not None and running.silent_sec < 60

    process.kill()
    process.communicate()
    killed = run_status(tmp_path)
    assert (killed.state, killed.step, killed.eta_sec, killed.ended) == ("killed", 3, None, None)
    assert "the same command goes on" in killed.note

    process = waiting(start(tmp_path, 5))
    process.send_signal(signal.SIGUSR1)
    process.communicate()
    stopped = run_status(tmp_path)
    assert process.returncode == 75
    assert (stopped.state, stopped.step, stopped.restarts, stopped.eta_sec) == ("stopped", 5, 1, None)
    assert stopped.note == "by SIGUSR1; the same command goes on" and stopped.ended is not None

    process = start(tmp_path, 7, "fail")
    process.communicate()
    failed = run_status(tmp_path)
    assert process.returncode == 1
    assert (failed.state, failed.note, failed.step) == ("failed", "the loss is nan at step 7", 7)

    start(tmp_path, 8).communicate()
    finished = run_status(tmp_path)
    assert (finished.state, finished.note, finished.step, finished.restarts) == ("finished", "", 8, 3)
    assert (finished.checkpoint_step, finished.validation) == (8, {"psnr": 28.0})


def test_looking_neither_stops_nor_changes_a_run(tmp_path):
    process = waiting(start(tmp_path, 3))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for _ in range(3):
        assert "running" in whale_status(str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(UserError, match="in use"), occupy(tmp_path, "pretrain dynamics", 8, 1):
        pytest.fail("looking dropped the lock")
    process.send_signal(signal.SIGUSR1)
    process.communicate()
    assert process.returncode == 75


def test_it_loads_nothing_heavy(tmp_path):
    start(tmp_path, 8).communicate()
    script = (
        "import sys\nfrom whale.cli import main\nassert main(['status', sys.argv[1]]) == 0\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True)


NOW = datetime.now(timezone.utc)
HERE = RunRecord(
    task="pretrain dynamics", state="running", attempt=1, started=NOW - timedelta(hours=1), first_step=0, steps=1000,
    world_size=2, host=socket.gethostname(), pid=123, slurm_job="77", locked=True,
)  # fmt: skip


def folder_of(folder: Path, record: RunRecord, lines: list[tuple[int, float, str]] | None = None) -> Path:
    """A run folder with a record, and metrics at (step, seconds since the start, name)."""
    folder.mkdir(parents=True, exist_ok=True)
    RunFolder(folder, record)
    begun = record.started.timestamp()
    with (folder / "metrics.jsonl").open("w") as file:
        for step, seconds, name in lines or []:
            file.write(json.dumps({"step": step, "time_sec": float(begun + seconds), name: 0.5}) + "\n")
    return folder


def trained(
    intervals: int, step_sec: float, validation_sec: float, every: int, log_every: int = 10
) -> list[tuple[int, float, str]]:
    """Metrics of a run that takes `step_sec` a step, and validates for `validation_sec` after each `every` lines."""
    lines, seconds = [(log_every, 100.0, "loss")], 100.0
    for i in range(2, intervals + 1):
        seconds += log_every * step_sec
        lines.append((i * log_every, seconds, "loss"))
        if i % every == 0:
            seconds += validation_sec
            lines.append((i * log_every, seconds, "val/psnr"))
    return lines


@given(
    intervals=st.integers(2, 3 * WINDOW), step_sec=st.floats(0.01, 100), validation_sec=st.floats(0, 1000),
    every=st.integers(1, 50),
)  # fmt: skip
def test_the_rate_is_that_of_training_whatever_validation_takes(
    intervals, step_sec, validation_sec, every, tmp_path_factory
):
    lines = trained(intervals, step_sec, validation_sec, every)
    status = run_status(folder_of(tmp_path_factory.mktemp("run"), HERE, lines))
    assert status.steps_per_sec == pytest.approx(1 / step_sec, rel=1e-3)
    assert status.step == 10 * intervals


def test_the_eta_counts_validation(tmp_path):
    with occupy(tmp_path, "pretrain dynamics", 1000, 1) as run:
        # 30 intervals of 10 steps: 20 s of training, and 20 s of validation in each.
        folder_of(tmp_path, run.record, trained(31, 2.0, 20.0, 1))
        status = run_status(tmp_path)
        run.end("stopped", 310, "SIGTERM")
    assert status.steps_per_sec == pytest.approx(0.5, rel=1e-4)
    assert status.eta_sec == pytest.approx(690 * 4, rel=0.05)


def test_the_rate_is_that_of_this_attempt(tmp_path):
    slow, fast = trained(5, 10.0, 0.0, 99), trained(5, 0.5, 0.0, 99)
    again = replace(HERE, attempt=2, first_step=50)
    lines = [(step, seconds - 5000, name) for step, seconds, name in slow]
    status = run_status(folder_of(tmp_path, again, lines))
    assert (status.steps_per_sec, status.step, status.loss) == (None, 50, 0.5)
    lines += [(step + 50, seconds, name) for step, seconds, name in fast]
    assert run_status(folder_of(tmp_path, again, lines)).steps_per_sec == pytest.approx(2.0, rel=1e-4)


def test_a_run_that_is_starting_up_shows_where_it_will_go_on(tmp_path):
    with publish_folder(tmp_path / "checkpoints/step_0000400") as temporary:
        (temporary / "COMPLETE").write_text("{}")
    (tmp_path / "checkpoints/step_0000500").mkdir()  # killed in a save
    with occupy(tmp_path, "pretrain dynamics", 1000, 1) as run:
        status = run_status(tmp_path)
        assert (status.state, status.note, status.step, status.loss) == ("running", "starting up", 400, None)
        assert (status.checkpoint_step, status.steps_per_sec, status.validation) == (400, None, {})
        run.begin(390)
        assert (run_status(tmp_path).note, run_status(tmp_path).step) == ("", 390)
        run.end("finished", 1000)


ELSEWHERE = replace(HERE, host="another-node")


@pytest.mark.parametrize("record", [ELSEWHERE, replace(ELSEWHERE, locked=False), replace(HERE, locked=False)])
@pytest.mark.parametrize(
    ("interval_sec", "silent_sec", "state"),
    [
        (1, 5, "running"),
        (1, SILENT_SEC - 60, "running"),
        (1, SILENT_SEC + 60, "killed"),
        (150, SILENT_SEC + 60, "running"),
        (150, 2000, "killed"),
    ],
)
def test_where_no_lock_tells_silence_does(tmp_path, record, interval_sec, silent_sec, state):
    passed = (datetime.now(timezone.utc) - record.started).total_seconds()
    lines = [(i, passed - silent_sec - interval_sec * (10 - i), "loss") for i in range(1, 11)]
    status = run_status(folder_of(tmp_path, record, lines))
    assert status.state == state and "no lock is seen" in status.note
    assert status.silent_sec == pytest.approx(silent_sec, abs=10)


def test_on_the_node_of_the_run_the_lock_tells_at_once(tmp_path):
    passed = (datetime.now(timezone.utc) - HERE.started).total_seconds()
    assert run_status(folder_of(tmp_path, HERE, [(1, passed - 1, "loss")])).state == "killed"


def test_a_half_written_line_and_missing_metrics_are_no_errors(tmp_path):
    folder_of(tmp_path, HERE, [(1, 1.0, "loss"), (2, 2.0, "loss")])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert run_status(tmp_path).step == 2
    (tmp_path / "metrics.jsonl").unlink()
    assert (run_status(tmp_path).step, run_status(tmp_path).loss) == (0, None)


@pytest.mark.parametrize("line", [b"hello", b'{"step": 3', b"[3]", b'"step"', b'{"step": 3}', b'{"loss": 1}', b"\xff"])
def test_a_damaged_line_is_named(tmp_path, line, capsys):
    folder_of(tmp_path, HERE, [(1, 1.0, "loss")])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    assert cli.main(["status", str(tmp_path)]) == 2
    assert f"{tmp_path / 'metrics.jsonl'}, line 2 is not a line of metrics" in capsys.readouterr().err


def test_a_damaged_record_is_named(tmp_path, capsys):
    (tmp_path / "status.json").write_text('{"state": "run')
    assert cli.main(["status", str(tmp_path)]) == 2
    assert f"{tmp_path / 'status.json'} is not the record of a run" in capsys.readouterr().err


def test_what_is_no_run_folder_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("empty", "file", "nowhere"):
        assert cli.main(["status", str(tmp_path / name)]) == 2
        assert f"{tmp_path / name} is no run folder" in capsys.readouterr().err
    assert cli.main(["status"]) == 2
    assert "name at least one" in capsys.readouterr().err
    assert cli.main(["status", "--jsn", str(tmp_path)]) == 2
    assert "did you mean '--json'" in capsys.readouterr().err


def test_nested_runs_are_found_from_the_run_and_from_the_project(tmp_path):
    tokenizer = folder_of(tmp_path / "demo/adapted/tokenizer", replace(HERE, task="finetune world_model"))
    assert find_runs(tmp_path / "demo/adapted") == [tokenizer], "the outer run has not begun yet"
    outer, other = folder_of(tmp_path / "demo/adapted", HERE), folder_of(tmp_path / "demo/dynamics", HERE)
    assert find_runs(tmp_path / "demo/adapted") == [outer, tokenizer]
    assert find_runs(tmp_path / "demo") == [outer, tokenizer, other]


def test_json_holds_what_the_text_shows(tmp_path):
    done = replace(HERE, state="failed", message="the loss is nan", step=20, ended=NOW, attempt=3)
    folder_of(tmp_path / "a", done, [(10, 5.0, "loss"), (20, 10.0, "loss"), (20, 11.0, "val/psnr")])
    (one,) = json.loads(whale_status(str(tmp_path / "a"), "--json"))
    assert {name: one[name] for name in ("task", "state", "note", "step", "steps", "restarts", "steps_per_sec")} == {
        "task": "pretrain dynamics", "state": "failed", "note": "the loss is nan", "step": 20, "steps": 1000,
        "restarts": 2, "steps_per_sec": pytest.approx(2.0),
    }  # fmt: skip
    assert one["run"] == str(tmp_path / "a") and (one["validation_step"], one["validation"]) == (20, {"psnr": 0.5})
    assert (one["loss"], one["eta_sec"], one["checkpoint_step"], one["slurm_job"]) == (0.5, None, None, "77")
    assert datetime.fromisoformat(one["ended"].replace("Z", "+00:00")) == read_record(tmp_path / "a").ended


def test_one_folder_is_shown_as_paragraphs_and_several_as_an_aligned_table(tmp_path):
    failed = replace(HERE, state="failed", message="out of memory", step=20)
    runs = [folder_of(tmp_path / "a", failed, [(10, 5.0, "loss")]), folder_of(tmp_path / "much_longer", HERE)]
    block = whale_status(str(runs[0])).splitlines()
    assert block[0] == str(runs[0])
    shown = {line[2:14].strip(): line[14:] for line in block[1:]}
    assert (shown["task"], shown["state"]) == ("pretrain dynamics", "failed: out of memory")
    assert (shown["step"], shown["loss"], shown["validation"]) == ("20 of 1000 (2.0 %)", "0.5", "-")
    assert shown["process"] == f"123 on {socket.gethostname()}, SLURM job 77, world size 2"
    head, first, second = whale_status(*map(str, runs)).splitlines()
    for name, cells in {"task": ("pretrain", "pretrain"), "state": ("failed", "killed"), "step": ("20/", "0/")}.items():
        column = head.index(f" {name} ") + 1
        assert (first[column:].startswith(cells[0]), second[column:].startswith(cells[1])) == (True, True)
    assert first.endswith("out of memory")
    assert whale_status(str(tmp_path)).count("task ") == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (5940, "99 min"), (6000, "1 h 40 min"), (200_000, "2 d 7 h")],
)
def test_spans_of_time_are_read_at_a_glance(tmp_path, seconds, text):
    status = replace(run_status(folder_of(tmp_path, HERE)), eta_sec=seconds, steps_per_sec=seconds)
    assert f"  ETA         {text}\n" in as_blocks([status])
    assert f"  {text}  " in as_table([status])


def test_a_loss_that_is_not_finite_is_shown_as_none(tmp_path):
    folder_of(tmp_path, HERE)
    line = {"step": 5, "time_sec": HERE.started.timestamp() + 1.5, "loss": None}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert run_status(tmp_path).loss is None
    assert "  loss        -\n" in as_blocks([run_status(tmp_path)])


def test_a_pid_that_is_alive_again_is_not_mistaken_for_the_run(tmp_path):
    assert run_status(folder_of(tmp_path, replace(HERE, pid=os.getpid()))).state == "killed"


def tokenizer_config(root: Path, steps: int, workers: int) -> TrainTokenizerConfig:
    if not (root / "pixels").is_dir():
        pixel_folder(root / "pixels")
    small = TokenizerConfig(
        image_px=16, patch_px=4, quantizer=VQConfig(num_codes=64, dim=16), width=16, heads=2, decoder_depth=1
    )
    data = DataConfig(sources=(DataSource(folder=root / "pixels"),), frames=4, batch=3, workers=workers)
    loop = LoopConfig(steps=steps, log_every=2, validate_every=10, save_every=10)
    return TrainTokenizerConfig(run=root / "run", data=data, loop=loop, model=small, optim=OptimConfig(warmup_steps=2))


def training(root: Path) -> subprocess.Popen[str]:
    """`whale pretrain tokenizer`, which would take minutes, after its first steps."""
    (root / "tokenizer.yaml").write_text(dump_config(tokenizer_config(root, 100_000, workers=2)))
    command = [sys.executable, "-m", "whale", "pretrain", "tokenizer", str(root / "tokenizer.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    begun = time.monotonic()
    while time.monotonic() - begun < 120 and process.poll() is None:
        if (root / "run/status.json").is_file():
            status = run_status(root / "run")
            if status.pid == process.pid and status.steps_per_sec and status.checkpoint_step:
                return process
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"no training: {process.communicate()}")


def test_a_real_training_is_held_stopped_killed_and_gone_on_with(tmp_path):
    process = training(tmp_path)
    assert run_status(tmp_path / "run").state == "running"
    command = [sys.executable, "-m", "whale", "pretrain", "tokenizer", str(tmp_path / "tokenizer.yaml")]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 2 and f"in use by process {process.pid}" in second.stderr
    assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate()
    stopped = run_status(tmp_path / "run")
    assert process.returncode == 75, said
    assert (stopped.state, stopped.note) == ("stopped", "by SIGUSR1; the same command goes on")
    assert stopped.step == stopped.checkpoint_step and stopped.task == "pretrain tokenizer"

    process = training(tmp_path)  # with data-loading workers, which may outlive it for a moment
    process.kill()
    process.wait()
    killed = run_status(tmp_path / "run")
    assert (killed.state, killed.restarts) == ("killed", 1)
    assert killed.step >= stopped.step and "psnr" in killed.validation
    process.communicate()


def test_a_real_training_ends_or_fails(tmp_path):
    config = tokenizer_config(tmp_path, steps=12, workers=0)
    train_tokenizer(config)
    finished = run_status(config.run)
    assert (finished.state, finished.step, finished.checkpoint_step, finished.restarts) == ("finished", 12, 12, 0)
    hot = OptimConfig(lr=1e20, muon_lr=1e20, warmup_steps=0, grad_clip=1e20)
    with pytest.raises(UserError, match="at step"):
        train_tokenizer(replace(config, run=tmp_path / "hot", optim=hot))
    failed = run_status(tmp_path / "hot")
    assert failed.state == "failed" and "at step" in failed.note
