import errno
import os
import subprocess
import sys
import time
import types
from typing import Any

import pytest

from whale import cli
from whale.config import configclass, load_config
from whale.errors import StoppedError


@configclass
class Inner:
    """A part."""

    width: int = 4
    """How wide,
    in pixels."""


@configclass
class Settings:
    """What the stand-in task takes."""

    seed: int
    """The seed."""
    inner: Inner = Inner()
    """The part."""


@pytest.fixture
def ran(monkeypatch) -> list[Any]:
    """The configurations with which a stand-in `demo greet` task was run."""
    runs: list[Any] = []
    module = types.ModuleType("stand_in_stage")
    module.TASKS = {"greet": cli.Task(Settings, runs.append)}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in_stage", module)
    monkeypatch.setitem(cli.TASKS, "demo", ("stand_in_stage", {"greet": "say hello"}))
    return runs


def whale(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "whale", *words], capture_output=True, text=True, check=False)


def test_help_answers_in_under_half_a_second():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        answer = whale("--help")
        seconds.append(time.perf_counter() - start)
    assert answer.returncode == 0
    shown = [line.split(maxsplit=2) for line in answer.stdout.splitlines()]
    for stage, (_, tasks) in cli.TASKS.items():
        for task, line in tasks.items():
            assert [stage, task, line] in shown
    assert any(line.startswith("  status ") and line.endswith(cli.STATUS) for line in answer.stdout.splitlines())
    assert min(seconds) < 0.5


def test_a_process_reports_a_users_error_on_stderr_with_code_2():
    answer = whale("pretain", "dynamics")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "no stage 'pretain'" in answer.stderr and "did you mean 'pretrain'" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_no_words_are_a_request_for_help(capsys):
    assert cli.main([]) == 0
    assert "usage: whale <stage> <task>" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["eval"], ["eval", "--help"], ["eval", "-h"]])
def test_a_stage_alone_lists_its_tasks_and_no_others(capsys, words):
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "fidelity" in shown and "tokenizer" not in shown and "status" not in shown


@pytest.mark.parametrize("words", [["status", "--help"], ["status", "-h"], ["status", "somewhere", "--help"]])
def test_help_of_status_shows_nothing_else(capsys, words):
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith("usage: whale status RUN [RUN ...] [--json]")


def test_the_task_runs_with_files_and_overrides_merged(ran, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("seed: 1\n")
    assert cli.main(["demo", "greet", str(path), "inner.width=8"]) == 0
    assert ran == [Settings(seed=1, inner=Inner(width=8))]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["dmeo", "greet"], ["no stage 'dmeo'", "did you mean 'demo'"]),
        (["--hlep"], ["no stage '--hlep'"]),
        (["staus", "runs/a"], ["no stage 'staus'", "did you mean 'status'"]),
        (["demo", "gret"], ["no task of demo 'gret'", "did you mean 'greet'"]),
        (["demo", "zzz"], ["no task of demo 'zzz'", "choose one of: greet"]),
        (["demo", "greet", "seed=1", "--print-confg"], ["no flag '--print-confg'", "did you mean '--print-config'"]),
        (["demo", "greet", "nowhere.yaml"], ["no configuration file nowhere.yaml"]),
        (["demo", "greet", "seed=1", "iner.width=3"], ["iner: unknown key", "did you mean 'inner'"]),
        (["demo", "greet"], ["seed: required"]),
    ],
)
def test_a_users_error_is_told_with_its_remedy_and_nothing_runs(ran, capsys, words, parts):
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for part in (*parts, "remedy: "):
        assert part in captured.err
    assert ran == []


def test_print_config_prints_a_configuration_that_loads_again_and_runs_nothing(ran, capsys, tmp_path):
    assert cli.main(["demo", "greet", "seed=3", "--print-config"]) == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert "# inner.width: How wide, in pixels." in path.read_text()
    assert load_config(Settings, [path]) == Settings(seed=3)
    assert ran == []


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_a_task_lists_every_key_with_its_meaning(ran, capsys, flag):
    assert cli.main(["demo", "greet", flag]) == 0
    shown = capsys.readouterr().out
    for part in ("say hello", "seed\n", "The seed.", "inner.width\n", "How wide, in pixels."):
        assert part in shown
    assert ran == []


def test_a_run_that_was_stopped_says_so_with_code_75(ran, capsys):
    def stop(config: Settings) -> None:
        raise StoppedError("step 3 of 8 is saved in runs/a")

    sys.modules["stand_in_stage"].TASKS = {"greet": cli.Task(Settings, stop)}  # type: ignore[attr-defined]
    assert cli.main(["demo", "greet", "seed=1"]) == 75
    assert capsys.readouterr().err == "whale: step 3 of 8 is saved in runs/a; the same command goes on\n"


def test_a_full_disk_is_told_with_its_remedy(ran, capsys):
    def write(config: Settings) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/metrics.jsonl")

    sys.modules["stand_in_stage"].TASKS = {"greet": cli.Task(Settings, write)}  # type: ignore[attr-defined]
    assert cli.main(["demo", "greet", "seed=1"]) == 2
    told = capsys.readouterr().err
    assert "full" in told and "runs/a/metrics.jsonl" in told and "remedy: make room" in told


def test_an_error_of_the_program_itself_is_not_hidden(ran, monkeypatch):
    def fail(config: Settings) -> None:
        raise RuntimeError("a bug")

    sys.modules["stand_in_stage"].TASKS = {"greet": cli.Task(Settings, fail)}  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["demo", "greet", "seed=1"])


def test_dry_run_prints_the_plan_and_runs_nothing(ran, monkeypatch, capsys):
    task = cli.Task(Settings, ran.append, lambda config: f"the plan of seed {config.seed}")
    monkeypatch.setattr(sys.modules["stand_in_stage"], "TASKS", {"greet": task})
    assert cli.main(["demo", "greet", "seed=7", "--dry-run"]) == 0
    assert capsys.readouterr().out == "the plan of seed 7\n" and ran == []


def test_dry_run_of_what_has_no_plan(ran, capsys):
    assert cli.main(["demo", "greet", "seed=7", "--dry-run"]) == 2
    assert "demo greet trains nothing" in capsys.readouterr().err and ran == []


def test_every_training_task_has_a_plan():
    for stage, task in [("pretrain", "tokenizer"), ("pretrain", "dynamics"), ("finetune", "world_model")]:
        assert "--dry-run" in whale(stage, task, "--help").stdout
    assert "--dry-run" not in whale("pretrain", "export", "--help").stdout
