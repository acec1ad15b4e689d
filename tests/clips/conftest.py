from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whale.actions import ActionStatus
from whale.clips.clip import ActionType, Clip, ClipInfo, Source
from whale.clips.manifest import UnitRecord, write_manifest, write_record
from whale.clips.stats import write_stats
from whale.clips.writer import ShardWriter

STATUS = tuple(ActionStatus.FIXED if dim in (3, 4, 5) else ActionStatus.ACTUATED for dim in range(7))


def clip_of(seed: int, steps: int = 6, kind: str = "pixels", split: str = "train", size: int = 8, **changes) -> Clip:
    rng = np.random.default_rng(seed)
    known = np.ones(steps, bool)
    known[-1] = False
    info = ClipInfo(
        dataset="toy", episode=f"episode-{seed}", start=0, split=split, camera="image", view="external",
        control_period_sec=0.2, action_type=ActionType.EEF_DELTA, action_status=STATUS, instruction="push",
        success=bool(seed % 2), source=Source("toy.tfrecord-00000-of-00001", seed),
        tokenizer="abc" if kind == "tokens" else None,
    )
    clip = Clip(
        info=info,
        frames=rng.integers(0, 256, (steps, size, size, 3), np.uint8) if kind == "pixels" else None,
        tokens=rng.integers(0, 500, (steps, 4)).astype(np.uint16) if kind == "tokens" else None,
        actions=rng.normal(size=(steps, 7)).astype(np.float32), action_known=known,
        rewards=rng.random(steps).astype(np.float32), proprio=rng.normal(size=(steps, 4)).astype(np.float32),
        is_first=np.arange(steps) == 0, is_last=np.arange(steps) == steps - 1, is_terminal=np.zeros(steps, bool),
    )
    return replace(clip, **changes)


def folder_of(folder: Path, units: list[list[Clip]], max_clips: int = 1000) -> Path:
    for unit, clips in enumerate(units):
        with ShardWriter(folder, unit, max_clips=max_clips) as writer:
            for clip in clips:
                writer.write(clip)
        write_record(folder, UnitRecord(unit, f"input-{unit}", "settings", writer.shards, {"black": unit}))
    info = units[0][0].info
    manifest = write_manifest(folder, info.dataset, info.tokenizer, len(units))
    write_stats(folder, manifest)
    return folder


@pytest.fixture(scope="session")
def make_clip():
    return clip_of


@pytest.fixture(scope="session")
def make_folder():
    return folder_of


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory) -> Path:
    """23 train clips of 4 to 8 frames in two input shards of several parts, and 5 val clips."""
    clips = [clip_of(seed, steps=4 + seed % 5, split="val" if seed % 6 == 5 else "train") for seed in range(28)]
    clips = [c for c in clips if c.info.split == "train"][:23] + [c for c in clips if c.info.split == "val"]
    return folder_of(tmp_path_factory.mktemp("clips") / "toy", [clips[:15], clips[15:]], max_clips=4)
