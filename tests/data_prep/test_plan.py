"""What `plan` estimates is what the conversion then gives."""

import json
import re
import shlex

import numpy as np
import pytest

from whale.clips.manifest import read_manifest
from whale.data_prep.plan import _hours
from whale.data_prep.source import InputShard


@pytest.fixture
def plan(whale, tmp_path):
    """Plan these conversions; the estimates and what was said."""

    def run(*conversions: str, **settings):
        out = tmp_path / "plan.json"
        ran = whale("plan", conversions=json.dumps(conversions), out=out, **settings)
        assert ran.code == 0, ran.err
        return json.loads(out.read_text())["conversions"], ran.out

    return run


@pytest.fixture
def conversion(settings, tmp_path) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items()) + f" out={tmp_path / 'clips'}"


def written(folder) -> int:
    return sum(path.stat().st_size for pattern in ("*.tar", "*.idx.npy") for path in folder.glob(pattern))


@pytest.mark.parametrize(("sample", "bound"), [(6, 0.1), (100, 0.04)])
def test_the_tabletop_is_estimated_as_it_is_converted(plan, conversion, clips, sample, bound):
    (one,), _ = plan(conversion, sample_episodes=sample)
    manifest = read_manifest(clips)
    counts = {"episodes": 24, "clips": 24, "input_shards": 3, "output_shards": len(manifest.shards)}
    assert {name: one[name] for name in counts} == counts
    frames = sum(shard.num_frames for shard in manifest.shards)  # one episode ends a step before the others
    assert one["frames"] == pytest.approx(frames, rel=bound) and (sample < 24 or one["frames"] == frames)
    assert one["sampled"] == min(sample, 24) and one["left_out"] == 0
    assert one["output_bytes"] == pytest.approx(written(clips), rel=bound)
    assert one["output_bytes_within"] < 0.1 and (sample < 24 or one["output_bytes_within"] == 0)
    assert 20e6 < one["process_bytes"] < 4e9 and one["hours"] > 0


def test_windows_sizes_and_rates_are_those_of_the_conversion(plan, conversion, convert, tmp_path):
    others = {"clip_frames": 4, "size_px": 32, "control_period_sec": 0.4}
    convert(tmp_path / "clips", **others)
    (one,), _ = plan(f"{conversion} {' '.join(f'{key}={value}' for key, value in others.items())}", sample_episodes=9)
    manifest = read_manifest(tmp_path / "clips")
    assert one["clips"] == sum(shard.num_clips for shard in manifest.shards) == 48
    assert one["frames"] == pytest.approx(sum(shard.num_frames for shard in manifest.shards), rel=0.02)
    assert one["output_bytes"] == pytest.approx(written(tmp_path / "clips"), rel=0.1)


def test_bridge_is_estimated_as_it_is_converted(plan, whale, bridge, tmp_path):
    settings = {"source": bridge, "camera": "image_0", "val_fraction": 0.25, "out": tmp_path / "clips"}
    assert whale("convert", **settings).code == 0
    (one,), _ = plan(" ".join(f"{key}={value}" for key, value in settings.items()), sample_episodes=10)
    assert (one["dataset"], one["episodes"], one["input_shards"]) == ("bridge_dataset", 50, 2)
    half = written(tmp_path / "clips")  # half of the records are duplicates, which only the conversion can tell
    assert one["output_bytes"] == pytest.approx(2 * half, rel=0.15)
    assert one["input_bytes"] == sum(path.stat().st_size for path in bridge.glob("*.tfrecord-*"))


def test_several_are_summed_and_the_commands_shown_load(plan, conversion, written_command):
    both, said = plan(conversion, f"{conversion} size_px=32", tasks=16, workers=3, sample_episodes=3)
    rows = [line.split() for line in said.splitlines()]
    assert next(row for row in rows if row[:1] == ["all"])[1:6] == ["48", "576", "48", "6", "12"]
    assert [one["tasks"] for one in both] == [3, 3]  # no more than there are input shards
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith("sbatch ")]
    assert len(commands) == 2
    for command, one in zip(commands, both, strict=True):
        assert {"--array=0-2", "--cpus-per-task=3"} <= set(command)
        (memory,) = (int(re.fullmatch(r"--mem=(\d+)G", word)[1]) for word in command if word.startswith("--mem"))
        assert (memory - 1) * 1e9 <= 4 * one["process_bytes"] <= memory * 1e9
        words = command[command.index("slurm/data_prep.sbatch") + 1 :]
        config = written_command(f"whale data_prep {shlex.join(words)}").config()
        assert config.workers == 3
    assert config.size_px == 32


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("size=32", "size: unknown key; did you mean 'size_px'"),
        ("camera=wrist", "has no camera 'wrist'"),
        ("min_frames=500", "no episode sampled of"),
        ("source=/nowhere", "/nowhere"),
        ("missing.yaml", "there is no configuration file missing.yaml"),
    ],
)
def test_a_conversion_that_cannot_be_is_told(whale, conversion, words, message):
    ran = whale("plan", conversions=json.dumps([f"{conversion} {words}"]))
    assert ran.code == 2 and message in ran.err


def test_hours_follow_from_the_task_that_takes_longest():
    counts = [10, 20, 30, 40, 50, 60]
    shards = [InputShard(k, f"s{k}", "train", 0, count, 1) for k, count in enumerate(counts)]
    assert _hours(shards, 1, 1, 36.0) == pytest.approx(2.1)
    assert _hours(shards, 2, 1, 36.0) == pytest.approx((20 + 40 + 60) / 100)
    assert _hours(shards, 2, 8, 36.0) == pytest.approx(0.6)  # a shard is the work of one process
    assert _hours(shards, 6, 1, 36.0) == pytest.approx(0.6)
    dice = np.random.default_rng(0)
    for _ in range(50):
        tasks, workers = (int(number) for number in dice.integers(1, 7, 2))
        assert _hours(shards, tasks, workers, 36.0) >= max(2.1 / (tasks * workers), 0.6) - 1e-9
