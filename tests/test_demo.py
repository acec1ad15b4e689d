"""demo.sh, run with a stand-in for the `whale` command."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture
def demo(tmp_path):
    """Run demo.sh in a folder where `whale` notes its words and fails at the task `fails_at` with exit code 3."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "install_sec").write_text("66\n")
    shutil.copy(REPO / "demo.sh", tmp_path)
    whale = tmp_path / ".venv" / "bin" / "whale"

    def run(fails_at: str = "nothing") -> tuple[int, str, dict]:
        whale.write_text(f'#!/bin/sh\necho "ran $@"\n[ "$2" != {fails_at} ] || exit 3\n')
        whale.chmod(0o755)
        answer = subprocess.run(["./demo.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
        return answer.returncode, answer.stdout, json.loads((tmp_path / "runs" / "demo" / "budget.json").read_text())

    return run


def test_every_stage_is_run_shown_and_timed(demo):
    code, shown, budget = demo()
    ran = [line.removeprefix("ran ") for line in shown.splitlines() if line.startswith("ran ")]
    assert code == 0 and len(ran) > 10
    assert [stage["command"] for stage in budget["stages"]] == [f"whale {words}" for words in ran]
    assert all(f"whale {words}" in shown for words in ran)
    assert budget["install_sec"] == 66
    assert all(stage["exit_code"] == 0 and 0 <= stage["seconds"] < 60 for stage in budget["stages"])


def test_a_stage_that_fails_ends_the_demo_with_its_code(demo):
    code, shown, budget = demo(fails_at="tokenize")
    assert code == 3
    assert "ran data_prep tokenize" in shown and "pretrain dynamics" not in shown
    assert budget["stages"][-1]["exit_code"] == 3


def test_figures_that_do_not_hold_fail_the_demo(demo):
    code, _, budget = demo(fails_at="report")
    assert code == 3
    assert " report " in budget["stages"][-1]["command"]


def test_it_starts_from_a_clean_folder(demo, tmp_path):
    stale = tmp_path / "runs" / "demo" / "eval" / "results.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    kept = tmp_path / "runs" / "mine"
    kept.mkdir()
    demo()
    assert not stale.exists() and kept.exists()
