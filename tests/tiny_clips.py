"""Folders of small tabletop clips, written in a second, for tests of training and evaluation."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from whale.clips.clip import ActionType, Clip, ClipInfo, Source
from whale.clips.index import key_name
from whale.clips.manifest import UnitRecord, write_manifest, write_record
from whale.clips.reader import ClipReader
from whale.clips.stats import write_stats
from whale.clips.writer import ShardWriter
from whale.models.tokenizer import VideoTokenizer
from whale.sim.base import Camera
from whale.sim.policies import SKILLS, TabletopPolicy
from whale.sim.tabletop import ACTION_STATUS, Tabletop


def tabletop_clip(seed: int, steps: int, size_px: int, split: str) -> Clip:
    camera, seeds = Camera(size_px=size_px), np.array([seed])
    world = Tabletop(1, camera)
    world.reset(seeds)
    policy = TabletopPolicy(list(SKILLS.values())[seed % len(SKILLS)], seeds, camera)
    frames, actions, rewards = [], [], []
    for _ in range(steps):
        frames.append(world.render()[0])
        actions.append(policy.act(world.render())[0])
        rewards.append(world.step(actions[-1][None])[0][0])
    flags = np.zeros(steps, bool)
    info = ClipInfo(
        dataset="tabletop", episode=f"seed {seed}", start=0, split=split, camera="image", view="external",
        control_period_sec=0.2, action_type=ActionType.EEF_DELTA, action_status=ACTION_STATUS,
        instruction=None, success=None, source=Source("simulated", seed), tokenizer=None,
    )  # fmt: skip
    return Clip(
        info=info, frames=np.stack(frames), tokens=None, actions=np.stack(actions), action_known=~flags,
        rewards=np.array(rewards, np.float32), proprio=None, is_first=np.arange(steps) == 0, is_last=flags,
        is_terminal=flags,
    )  # fmt: skip


def write_folder(folder: Path, clips: list[Clip], tokenizer: str | None = None) -> Path:
    with ShardWriter(folder, 0, max_clips=1000) as writer:
        for clip in clips:
            writer.write(clip)
    write_record(folder, UnitRecord(0, "simulated", "settings", writer.shards, {}))
    write_stats(folder, write_manifest(folder, "tabletop", tokenizer, 1))
    return folder


def pixel_folder(folder: Path, train: int = 12, val: int = 4, steps: int = 10, size_px: int = 16) -> Path:
    splits = ["train"] * train + ["val"] * val
    return write_folder(folder, [tabletop_clip(seed, steps, size_px, split) for seed, split in enumerate(splits)])


def token_folder(folder: Path, pixels: Path, export: Path) -> Path:
    import torch

    tokenizer, clips = VideoTokenizer.from_pretrained(export), []
    for split in ("train", "val"):
        reader = ClipReader(pixels, split)
        for clip in map(reader.read, range(len(reader))):
            tokens = tokenizer.encode(torch.from_numpy(clip.frames)).numpy().astype(np.uint16)
            info = replace(clip.info, tokenizer=tokenizer.fingerprint)
            clips.append(replace(clip, info=info, frames=None, tokens=tokens))
    return write_folder(folder, clips, tokenizer.fingerprint)


def spoil(folder: Path, source: Path, number: int, name: str) -> str:
    """A copy of a folder in which an array of one train clip is NaN behind a sound checksum; the clip's name."""
    shutil.copytree(source, folder)
    with ShardWriter(folder, 0, max_clips=1000) as writer:
        for split in ("train", "val"):
            reader = ClipReader(source, split)
            for k, clip in enumerate(map(reader.read, range(len(reader)))):
                if (split, k) == ("train", number):
                    object.__setattr__(clip, name, np.full_like(getattr(clip, name), np.nan))  # past its own check
                writer.write(clip)
    write_record(folder, UnitRecord(0, "simulated", "settings", writer.shards, {}))
    write_manifest(folder, "tabletop", reader.manifest.tokenizer, 1)
    return key_name(ClipReader(folder, "train").key(number))
