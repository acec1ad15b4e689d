"""The models that `bench_rollout.py` and `bench_soak.py` roll out: rungs of the ladder, with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from step_model import CARD

from whale.config import build_config, to_values
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.rollout import Imagination

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "pretrain"


def rung(name: str) -> WorldModel:
    """A size of the ladder on the tokenizer of 256 pixels, 256 tokens a frame; `name` is 26m, 77m, 154m or 414m."""
    torch.manual_seed(0)
    dynamics = yaml.safe_load((CONFIGS / f"whale_x_{name}.yaml").read_text())
    tokenizer = yaml.safe_load((CONFIGS / "tokenizer_256px.yaml").read_text())
    values = {
        "tokenizer": tokenizer["model"], "dynamics": dynamics["dynamics"], "behavior": dynamics["behavior"],
        "datasets": {"benchmark": to_values(CARD)},
    }  # fmt: skip
    return WorldModel(build_config(WorldModelConfig, values, name)).eval()


def imagine(model: WorldModel, copies: int = 1, **options: Any) -> Imagination:
    """Begin from random frames and actions, as many as the band holds; every episode is the same."""
    rng = np.random.default_rng(0)
    size, context = model.config.tokenizer.image_px, model.config.dynamics.band
    frames = rng.integers(0, 256, (1, context, size, size, 3), np.uint8)
    imagination = Imagination(
        model, frames, actions(context - 1)[None], "benchmark", CARD.control_period_sec, **options
    )
    return imagination if copies == 1 else imagination.fork(copies)


def actions(num: int, seed: int = 1) -> np.ndarray:
    """Random actions, float32 [num, 7]."""
    return np.random.default_rng(seed).uniform(-1, 1, (num, 7)).astype(np.float32)
