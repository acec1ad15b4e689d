"""Tiny data and configurations for training runs, and what two runs are compared by."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_clips import tabletop_clip, token_folder, write_folder
from tiny_model import randomise, tiny_config

from whale.checkpoint_folder import COMPLETE, Checkpoint, find_checkpoints
from whale.clips.clip import Clip
from whale.clips.loader import DataConfig, DataSource
from whale.config import dump_config
from whale.engine import EngineConfig
from whale.export import save_export
from whale.finetune.config import AdaptTokenizerConfig, WorldModelAdaptationConfig
from whale.loop import LoopConfig
from whale.models.behavior import BehaviorConfig
from whale.models.dynamics import DynamicsConfig
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import TokenizerConfig
from whale.models.world_model import WorldModel
from whale.objectives.validation import ValidationConfig
from whale.optim import OptimConfig
from whale.pretrain.config import TrainDynamicsConfig, TrainTokenizerConfig
from whale.tracker import read_metrics

LOOP = LoopConfig(steps=10, log_every=1, validate_every=5, save_every=4)
OPTIM = OptimConfig(name="adamw", lr=1e-3, warmup_steps=2)
ENGINE = EngineConfig(device="cpu")
VALIDATION = ValidationConfig(batches=1, following_clips=4, following_horizon=4)
# Codes that are not used die within a few steps.
QUANTIZER = VQConfig(num_codes=64, dim=16, decay=0.5)
TOKENIZER = TokenizerConfig(image_px=16, patch_px=4, quantizer=QUANTIZER, width=16, heads=2, decoder_depth=1)


def uneven_clip(seed: int, split: str) -> Clip:
    """Of 1 to 9 frames, so that windows are padded; some without rewards, or with actions that are not known."""
    clip = tabletop_clip(seed, [9, 3, 6, 1, 8, 2, 5][seed % 7] if split == "train" else 9, 16, split)
    known = np.arange(clip.num_frames) % 4 != seed % 4
    ending = np.arange(clip.num_frames) == clip.num_frames - 1
    return replace(clip, rewards=clip.rewards if seed % 3 else None, action_known=known, is_terminal=ending,
                   is_last=ending)  # fmt: skip


@dataclass(frozen=True)
class TinyRuns:
    """A folder of tiny data, and a configuration file for each task of training."""

    folder: Path

    def words(self, task: str, run: Path, **settings: Any) -> list[object]:
        """A command, as `dynamics` or `world_model`; in names of keys, `__` stands for a dot."""
        stage = "finetune" if task == "world_model" else "pretrain"
        keys = {"run": run, **{name.replace("__", "."): value for name, value in settings.items()}}
        overrides = [f"{name}={'null' if value is None else value}" for name, value in keys.items()]
        return [stage, task, self.folder / f"{task}.yaml", *overrides]


def prepare(folder: Path) -> TinyRuns:
    """Write the data and the configurations."""
    splits = ["train"] * 14 + ["val"] * 4
    write_folder(folder / "pixels", [uneven_clip(seed, split) for seed, split in enumerate(splits)])
    torch.manual_seed(0)
    source = WorldModel(tiny_config())
    randomise(source)
    save_export(folder / "source", "world_model", source, source.config, {})
    token_folder(folder / "tokens", folder / "pixels", folder / "source")

    def data(kind: str, frames: int) -> DataConfig:
        return DataConfig(sources=(DataSource(folder=folder / kind),), frames=frames, batch=4, workers=0)

    shared = {"run": folder / "run", "loop": LOOP, "optim": OPTIM, "engine": ENGINE}
    recipe = AdaptTokenizerConfig(loop=replace(LOOP, steps=4), frames=4, batch=4, optim=OPTIM)
    configs: dict[str, Any] = {
        "tokenizer": TrainTokenizerConfig(data=data("pixels", 4), model=TOKENIZER, **shared),
        "dynamics": TrainDynamicsConfig(
            data=data("tokens", 6), tokenizer=folder / "source",
            dynamics=DynamicsConfig(width=16, heads=2, depth=1, band=3),
            behavior=BehaviorConfig(dim=4, width=16, heads=2), validation=VALIDATION, **shared,
        ),
        "world_model": WorldModelAdaptationConfig(
            demos=data("pixels", 6), source=folder / "source", tokenizer=recipe, validation=VALIDATION, **shared
        ),
    }  # fmt: skip
    for task, config in configs.items():
        (folder / f"{task}.yaml").write_text(dump_config(config))
    return TinyRuns(folder)


def curve(run: Path) -> list[dict[str, float]]:
    """What a run has logged, but for times: a line a step, and one a validation."""
    timed = ("time_sec", "frames_per_sec", "tokens_per_sec", "mfu", "data_wait", "checkpoint_stall_sec")
    return [{k: v for k, v in line.items() if k not in timed} for line in read_metrics(run / "metrics.jsonl")]


def losses(run: Path) -> list[float]:
    """The loss of each step."""
    return [line["loss"] for line in curve(run) if "loss" in line]


def worst_deviation(run: Path, other: Path) -> float:
    """The largest relative difference of two loss curves."""
    mine, theirs = np.array(losses(run)), np.array(losses(other))
    return float(np.abs(mine / theirs - 1).max())


def last_checkpoint(run: Path) -> Checkpoint:
    return find_checkpoints(run / "checkpoints")[-1]


def bits(run: Path) -> tuple[str, list[dict[str, float]]]:
    """What two runs have in common that are the same to the last bit: the hashes of every file of the last checkpoint
    (weights, optimiser, state), and everything that was logged.
    """
    return (last_checkpoint(run).folder / COMPLETE).read_text(), curve(run)
