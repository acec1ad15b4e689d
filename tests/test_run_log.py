"""What a run writes to the console and to its metrics while it trains."""

import re
from dataclasses import replace

import numpy as np
import pytest

from whale.engine import EngineConfig
from whale.loop import LoopConfig, Run
from whale.optim import OptimConfig
from whale.ranks import Ranks
from whale.run_folder import occupy
from whale.run_log import RunLog
from whale.tracker import TrackerConfig, read_metrics


class Loader:
    """As much of a loader as the log asks."""

    merged_datasets: tuple[str, ...] = ()

    class config:  # noqa: N801
        batch, frames = 4, 8


class Objective:
    tokens_per_frame = 64

    def flops_per_frame(self, frames):
        return 1e6 * frames

    def videos(self):
        return {"imagined": np.zeros((3, 8, 8, 3), np.uint8)}


@pytest.fixture
def run(tmp_path) -> Run:
    return Run("test", tmp_path / "run", LoopConfig(steps=20), OptimConfig(), EngineConfig(device="cpu"),
               TrackerConfig(), OptimConfig())  # fmt: skip


def log_two_steps(run):
    with occupy(run.folder, run.task, run.loop.steps, 1) as held:
        log = RunLog(run, Objective(), Ranks(), held, 0, Loader)
        for step in (1, 2):
            log.time_data(iter([{}]))
            with log.stalled():
                pass
            log.training(step, {"loss": 3.21}, 4 * step)
            log.advance()
        log.validation(2, {"psnr": 20.0})
        log.finished(2, {"psnr": 20.0, "dataset/a/psnr": 19.0})
        log.close()


def test_a_line_tells_loss_and_speed(run, capsys):
    log_two_steps(run)
    lines = capsys.readouterr().err.splitlines()
    pattern = r"step 2/20  loss 3\.210  [\d,]+ tokens/s  MFU \d+\.\d\d  data \d+\.\d %  ETA \d+:\d\d"
    assert re.fullmatch(pattern, lines[1])
    assert "psnr 20.000" in lines[-1] and "dataset" not in lines[-1]
    first = read_metrics(run.folder / "metrics.jsonl")[0]
    assert {"frames_per_sec", "tokens_per_sec", "mfu", "data_wait", "checkpoint_stall_sec"} <= first.keys()
    assert first["tokens_per_sec"] == pytest.approx(64 * first["frames_per_sec"])
    assert not (run.folder / "videos").exists()


def test_videos_are_written_where_wandb_shows_them(run, capsys):
    pytest.importorskip("wandb")
    log_two_steps(replace(run, tracker=TrackerConfig(wandb="offline")))
    assert [path.name for path in (run.folder / "videos/val/imagined").iterdir()] == ["00000002.gif"]
