import importlib.util
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image, ImageSequence

from whale.config import load_config
from whale.errors import UserError
from whale.tracker import Tracker, TrackerConfig, read_metrics, validation_at

OFF = TrackerConfig()


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_line_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    tracker = Tracker(OFF, tmp_path / "run", {})
    before = time.time()
    for step in (1, 2):
        tracker.log(step, {"loss": 1 / step, "tokens_per_sec": 100})
        assert len(lines_of(tmp_path / "run")) == step
    tracker.close()
    first, second = lines_of(tmp_path / "run")
    assert {**first, "time_sec": None} == {"step": 1, "time_sec": None, "loss": 1.0, "tokens_per_sec": 100.0}
    assert before - 1 < first["time_sec"] <= second["time_sec"] < before + 60
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == [first, second]


def test_what_json_cannot_hold_is_null(tmp_path):
    tracker = Tracker(OFF, tmp_path, {})
    tracker.log(1, {"a": float("nan"), "b": float("inf"), "c": 0.5})
    tracker.close()
    (line,) = lines_of(tmp_path)
    assert (line["a"], line["b"], line["c"]) == (None, None, 0.5)


def test_resuming_drops_lines_beyond_the_resumed_step_and_a_torn_last_line(tmp_path):
    tracker = Tracker(OFF, tmp_path, {})
    for step in range(1, 8):
        tracker.log(step, {"loss": step})
    tracker.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed in the middle of a write
    tracker = Tracker(OFF, tmp_path, {}, resumed_step=5)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3, 4, 5]
    for step in (6, 7, 8):
        tracker.log(step, {"loss": -step})
    tracker.close()
    assert [line["loss"] for line in lines_of(tmp_path)] == [1, 2, 3, 4, 5, -6, -7, -8]


def test_starting_anew_begins_the_file_anew(tmp_path):
    for step in (1, 2):
        tracker = Tracker(OFF, tmp_path, {})
        tracker.log(step, {})
        tracker.close()
    assert [line["step"] for line in lines_of(tmp_path)] == [2]


def test_the_figures_of_one_validation_are_found_again(tmp_path):
    tracker = Tracker(OFF, tmp_path, {})
    for step in (1, 2, 4):
        tracker.log(step, {"loss": step})
        if step != 1:
            tracker.log(step, {"val/psnr": 10 + step, "val/dataset/a/loss": float("nan")})
    tracker.close()
    assert validation_at(tmp_path / "metrics.jsonl", 2) == {"psnr": 12.0, "dataset/a/loss": None}
    assert validation_at(tmp_path / "metrics.jsonl", 1) == validation_at(tmp_path / "metrics.jsonl", 3) == {}


def moving_square(colour: tuple[int, int, int]) -> np.ndarray:
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    for k, frame in enumerate(frames):
        frame[8:16, 4 * k : 4 * k + 8] = colour
    return frames


def test_a_video_is_a_file_that_plays_at_its_speed_and_is_replaced_whole(tmp_path):
    tracker = Tracker(OFF, tmp_path, {})
    for colour in ((255, 0, 0), (0, 0, 255)):
        path = tracker.video(20, "val/imagined", moving_square(colour), fps=5)
        with Image.open(path) as played:
            shown = [(np.asarray(image.convert("RGB")), image.info) for image in ImageSequence.Iterator(played)]
        assert np.array_equal(np.stack([image for image, _ in shown]), moving_square(colour))
        assert [info["duration"] for _, info in shown] == [200] * 5 and shown[0][1]["loop"] == 0
    assert [file.relative_to(tmp_path) for file in (tmp_path / "videos").rglob("*") if file.is_file()] == [
        path.relative_to(tmp_path)
    ]
    tracker.close()


def test_off_is_a_word_in_a_configuration_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("wandb: off\n")
    assert load_config(TrackerConfig, [path]) == OFF
    with pytest.raises(UserError, match="wandb"):
        load_config(TrackerConfig, [path], ["wandb=on"])


def test_wandb_is_not_imported_unless_it_is_asked_for(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom whale.tracker import Tracker, TrackerConfig\n"
        "Tracker(TrackerConfig(), Path(sys.argv[1]), {}).log(1, {'loss': 1.0})\nassert 'wandb' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_asking_for_wandb_without_having_it_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # what makes `import wandb` fail
    with pytest.raises(UserError, match="pip install wandb"):
        Tracker(TrackerConfig(wandb="offline"), tmp_path, {})
    assert list(tmp_path.iterdir()) == []


MIRRORED_RUN = """
import sys
from pathlib import Path
import numpy as np
from whale.tracker import Tracker, TrackerConfig

resumed_step = int(sys.argv[2]) or None
tracker = Tracker(TrackerConfig(wandb="offline", project="whale-test"), Path(sys.argv[1]), {"seed": 3}, resumed_step)
for step in range((resumed_step or 0) + 1, (resumed_step or 0) + 4):
    tracker.log(step, {"loss": 1 / step})
frames = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
tracker.video(step, "val/imagined", frames, fps=5)
tracker.close()
"""


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_continues_the_same_run_after_a_restart_and_learns_no_secret(tmp_path):
    folder, argument, key = tmp_path / "run", "token-in-an-argument-5f2c", "0123456789abcdef0123456789abcdef01234567"
    environment = {**os.environ, "WANDB_API_KEY": key, "SOME_TOKEN": "token-in-the-environment-77ab"}

    def run(resumed_step: int) -> str:
        command = [sys.executable, "-c", MIRRORED_RUN, str(folder), str(resumed_step), argument]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return (folder / "wandb_id.txt").read_text()

    first = run(0)
    assert run(2) == first
    records = sorted((folder / "wandb").glob(f"offline-run-*/run-{first}.wandb"))
    assert len(records) == 2
    assert b"loss" in records[0].read_bytes() and b"seed" in records[0].read_bytes()
    assert [line["step"] for line in lines_of(folder)] == [1, 2, 3, 4, 5]
    for step, record in zip((3, 5), records, strict=True):  # the video goes along, to the byte
        video = (folder / f"videos/val/imagined/{step:08d}.gif").read_bytes()
        (mirrored,) = (record.parent / "files/media/videos/val").glob("*.gif")
        assert mirrored.read_bytes() == video and mirrored.name.encode() in record.read_bytes()
    for file in folder.rglob("*"):
        for secret in (argument, key, environment["SOME_TOKEN"]):
            assert not file.is_file() or secret.encode() not in file.read_bytes(), file
    assert run(0) != first  # begun anew: another run
