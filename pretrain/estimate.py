"""`whale pretrain ... --dry-run`: what a run would take, without its data where they are not there yet."""

from dataclasses import replace
from pathlib import Path

import torch

from whale.clips.loader import DataConfig
from whale.export import read_config, read_export
from whale.models.dataset_card import DatasetCard, dataset_cards
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import TokenizerConfig, VideoTokenizer
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.objectives.dynamics_objective import DynamicsObjective
from whale.objectives.tokenizer_loss import TokenizerObjective
from whale.plan import Plan, describe
from whale.pretrain.config import TrainDynamicsConfig, TrainTokenizerConfig

ASSUMED_TOKENIZER = TokenizerConfig(
    image_px=256, patch_px=16, quantizer=VQConfig(num_codes=1024, dim=64), width=512, heads=8, decoder_depth=3
)
"""Where the tokenizer is not trained yet: that of configs/pretrain/tokenizer_256px.yaml."""
EMPTY_CARD = DatasetCard(
    action_low=(0.0,) * 7, action_high=(1.0,) * 7, action_status=(2,) * 7, action_type="eef_delta", reward_mean=0.0,
    reward_std=1.0, control_period_sec=0.2,
)  # fmt: skip


def plan_tokenizer(config: TrainTokenizerConfig) -> str:
    """The plan of `whale pretrain tokenizer`."""

    def build(depth: int) -> TokenizerObjective:
        model = VideoTokenizer(replace(config.model, decoder_depth=depth))
        return TokenizerObjective(model, replace(config.loss, lpips=0.0, lpips_weights=None), torch.zeros(1))

    size = config.model.image_px
    notes = ("LPIPS is not in it",) if config.loss.lpips else ()
    return describe(Plan(
        "whale pretrain tokenizer", config.model, build, config.model.decoder_depth, (size, size, 3), config.data,
        config.loop.steps, config.optim, config.engine, notes,
    ))  # fmt: skip


def plan_dynamics(config: TrainDynamicsConfig) -> str:
    """The plan of `whale pretrain dynamics`."""
    tokenizer, notes = _tokenizer(config.tokenizer)
    cards, more = _cards(config.data)
    sizes = WorldModelConfig(
        tokenizer=tokenizer, dynamics=config.dynamics, behavior=config.behavior, datasets=cards
    )

    def build(depth: int) -> DynamicsObjective:
        model = WorldModel(replace(sizes, dynamics=replace(config.dynamics, depth=depth)))
        return DynamicsObjective(model, config.loss, [])

    return describe(Plan(
        "whale pretrain dynamics", sizes, build, config.dynamics.depth, (tokenizer.tokens_per_frame,), config.data,
        config.loop.steps, config.optim, config.engine, notes + more,
    ))  # fmt: skip


def _tokenizer(folder: Path) -> tuple[TokenizerConfig, tuple[str, ...]]:
    if not folder.exists():
        return ASSUMED_TOKENIZER, (f"there is no {folder} yet: taken to be of 256 px, 256 tokens a frame",)
    inside = read_export(folder)["kind"] == "world_model"
    return read_config(folder, ("tokenizer", "world_model"), TokenizerConfig, "tokenizer" if inside else None), ()


def _cards(data: DataConfig) -> tuple[dict[str, DatasetCard], tuple[str, ...]]:
    missing = sum(not source.folder.exists() for source in data.sources)
    if not missing:
        return dataset_cards([source.folder for source in data.sources]), ()
    count = len(data.sources)
    cards = {str(i): EMPTY_CARD for i in range(count)}
    return cards, (f"{missing} of {count} folders of clips are not there yet: taken to be a dataset each",)
