"""A small world model with random weights, large enough to show every dependence."""

from dataclasses import replace
from typing import Any

import torch

from whale.models.behavior import BehaviorConfig
from whale.models.dataset_card import DatasetCard
from whale.models.dynamics import DynamicsConfig
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import TokenizerConfig
from whale.models.world_model import WorldModel, WorldModelConfig

CARD = DatasetCard(
    action_low=(-0.05,) * 3 + (0.0,) * 4,
    action_high=(0.05,) * 3 + (0.0,) * 3 + (1.0,),
    action_status=(2, 2, 2, 1, 1, 1, 2),
    action_type="eef_delta",
    reward_mean=0.4,
    reward_std=0.3,
    control_period_sec=0.2,
    action_frame="base",
)


def tiny_config(band: int = 3, depth: int = 2) -> WorldModelConfig:
    return WorldModelConfig(
        tokenizer=TokenizerConfig(
            image_px=16,
            patch_px=4,
            quantizer=VQConfig(num_codes=32, dim=12),
            width=16,
            heads=2,
            decoder_frames=3,
        ),
        dynamics=DynamicsConfig(width=16, heads=2, depth=depth, band=band),
        behavior=BehaviorConfig(dim=6, width=16, heads=2),
        datasets={"tabletop": CARD},
    )


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Random values in every parameter, so that layers that start at zero count too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


def random_model(
    band: int = 3, depth: int = 2, seed: int = 0, datasets: tuple[str, ...] = ("tabletop",), **switches: Any
) -> WorldModel:
    """In float64; `switches` are of its dynamics."""
    torch.manual_seed(seed)
    config = tiny_config(band, depth)
    dynamics = replace(config.dynamics, **switches)
    model = WorldModel(replace(config, dynamics=dynamics, datasets=dict.fromkeys(datasets, CARD)))
    randomise(model, seed)
    return model.double().eval()


def random_batch(model: WorldModel, batch: int = 2, frames: int = 8, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = model.config.tokenizer.tokens_per_frame
    mask = torch.tensor([status == 2 for status in CARD.action_status]).expand(batch, frames, 7)
    rewards = torch.randn(batch, frames, generator=generator, dtype=torch.float64)
    return {
        "tokens": torch.randint(model.tokenizer.num_codes, (batch, frames, tokens), generator=generator),
        "actions": torch.randn(batch, frames, 7, generator=generator, dtype=torch.float64) * mask,
        "action_mask": mask,
        "action_status": torch.tensor(CARD.action_status).expand(batch, 7),
        "action_type": torch.zeros(batch, dtype=torch.int64),
        "rewards": rewards,
        "reward_mask": torch.ones(batch, frames, dtype=torch.bool),
        "terminated": torch.zeros(batch, frames, dtype=torch.bool),
        "terminated_mask": torch.ones(batch, frames, dtype=torch.bool),
        "valid": torch.ones(batch, frames, dtype=torch.bool),
        "merged": torch.zeros(batch, frames, dtype=torch.bool),
        "control_period_sec": torch.full((batch,), 0.2, dtype=torch.float64),
        "embodiment": torch.zeros(batch, dtype=torch.int64),
    }
