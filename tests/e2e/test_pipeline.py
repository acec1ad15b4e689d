"""All four stages, end to end: the demo's own commands and configurations, made small by overrides.

Nothing is learned in six steps, so the verdict must be that the figures do not hold: the last command exits with 1.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent

SMALLER = {
    "tabletop_collect": "episodes=80 steps=14 shards=2",
    "shifted_collect": "episodes=12 steps=14",
    "tabletop_tokenizer": "loop.steps=6 model.quantizer.num_codes=64 initial_clips=12 validation_clips=4",
    "tabletop_dynamics": "loop.steps=6 loop.milestones=[3] dynamics.width=32 dynamics.depth=1 validation.batches=1",
    "tabletop_export_early": "step=3",
    "shifted": "loop.steps=3 tokenizer.loop.steps=3 demos.sources=[{folder: runs/demo/clips/shifted, clips: 4}]",
    "shifted_scratch": "loop.steps=3 demos.sources=[{folder: runs/demo/clips/shifted, clips: 4}]",
    "tabletop_fidelity": "max_episodes=8 min_episodes=4 horizons=[1,8]",
    "shifted_fidelity": "max_episodes=4 min_episodes=2 horizons=[1,8]",
    "tabletop_value": "num_starts=2 horizon=6",
    "tabletop_uncertainty": "max_episodes=20 min_episodes=20 horizon=6",
}


def demo_commands() -> list[list[str]]:
    lines = re.findall(r"^stage (whale .+)$", (REPO / "demo.sh").read_text(), re.MULTILINE)
    return [line.split() for line in lines]


def overrides(words: list[str]) -> list[str]:
    """The overrides of a command's last configuration file; a value may hold spaces."""
    last = [Path(word).stem for word in words if word.endswith(".yaml")][-1]
    return re.split(r" (?=[\w.]+=)", SMALLER[last]) if last in SMALLER else []


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, dict[str, subprocess.CompletedProcess]]:
    """The folder the commands ran in, and what each printed."""
    folder, done = tmp_path_factory.mktemp("demo"), {}
    (folder / "configs").symlink_to(REPO / "configs")
    (folder / "runs/demo").mkdir(parents=True)
    (folder / "runs/demo/budget.json").write_text('{"install_sec": 1, "stages": []}')
    for words in demo_commands():
        command = [sys.executable, "-m", *words, *overrides(words)]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ})
        done[" ".join(words)] = run
        if run.returncode:
            break
    return folder, done


def test_every_command_runs_and_the_verdict_is_honest(demo):
    folder, done = demo
    *earlier, last = done.values()
    assert len(done) == len(demo_commands()), last.stderr
    assert all(run.returncode == 0 for run in earlier)
    assert last.returncode == 1, last.stdout + last.stderr
    results = json.loads((folder / "runs/demo/eval/results.json").read_text())
    figures = {figure["name"]: figure for figure in results["figures"]}
    needed = {name for name, figure in figures.items() if figure["need"]}
    assert needed == {
        "psnr_gain_over_copy_h8", "psnr_below_ceiling_h8", "action_following_psnr", "value_pearson",
        "finetune_psnr_gain_over_scratch",
    }  # fmt: skip
    beside = {
        "value_spearman", "mmrv", "value_pearson_actions_only", "value_pearson_undertrained",
        "value_spearman_undertrained", "mmrv_undertrained", "token_flip_rate",
    }  # fmt: skip
    assert beside <= figures.keys()
    assert any(figure["holds"] is False for figure in figures.values())
    for figure in figures.values():
        assert figure["low"] is None or figure["low"] <= figure["value"] <= figure["high"], figure


def test_the_report_stands_alone(demo):
    folder, _ = demo
    page = (folder / "runs/demo/eval/report.html").read_text()
    assert "psnr_gain_over_copy_h8" in page and "data:image/" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)


def test_no_tensorflow_outside_collect_and_convert(demo):
    """Each task in a fresh process: what it imports, and what running it imported."""
    code = (
        "import sys, runpy; sys.argv[0] = 'whale'\n"
        "from whale.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "print('tensorflow' in sys.modules, status)"
    )
    folder, _ = demo
    for words in demo_commands():
        if words[2] in ("verify", "tokenizer", "dynamics"):  # finished runs: everything is loaded, nothing is trained
            run = subprocess.run(
                [sys.executable, "-c", code, *words[1:], *overrides(words)], cwd=folder, capture_output=True, text=True
            )
            assert run.stdout.splitlines()[-1] == "False 0", run.stdout + run.stderr
