"""The model and the clips that `bench_step.py` trains on."""

import torch

from whale.models.behavior import BehaviorConfig
from whale.models.dataset_card import DatasetCard
from whale.models.dynamics import DynamicsConfig
from whale.models.tokenizer import TokenizerConfig
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.objectives.dynamics_loss import DynamicsLossConfig
from whale.objectives.dynamics_objective import DynamicsObjective

BAND = 4
FRAMES = 2 * BAND
CARD = DatasetCard(
    action_low=(-1.0,) * 7, action_high=(1.0,) * 7, action_status=(2,) * 7, action_type="eef_delta", reward_mean=0.0,
    reward_std=1.0, control_period_sec=0.2, action_frame="base",
)  # fmt: skip


def build_objective(width: int = 512, depth: int = 6) -> DynamicsObjective:
    """By default 28.3M parameters of dynamics and 2.1M of behaviour, 64 tokens a frame."""
    torch.manual_seed(0)
    config = WorldModelConfig(
        tokenizer=TokenizerConfig(), dynamics=DynamicsConfig(width=width, heads=width // 64, depth=depth, band=BAND),
        behavior=BehaviorConfig(width=256), datasets={"benchmark": CARD},
    )  # fmt: skip
    return DynamicsObjective(WorldModel(config), DynamicsLossConfig(), [])


def random_batch(clips: int, tokens: int, codes: int) -> dict[str, torch.Tensor]:
    """Random tokens, everything known."""
    known = torch.ones(clips, FRAMES, dtype=torch.bool)
    return {
        "tokens": torch.randint(codes, (clips, FRAMES, tokens)),
        "actions": torch.randn(clips, FRAMES, 7), "action_mask": known[..., None].expand(-1, -1, 7),
        "action_status": torch.full((clips, 7), 2), "action_type": torch.zeros(clips, dtype=torch.int64),
        "rewards": torch.randn(clips, FRAMES), "reward_mask": known, "valid": known, "merged": ~known,
        "terminated": torch.zeros(clips, FRAMES, dtype=torch.bool), "terminated_mask": known,
        "control_period_sec": torch.full((clips,), 0.2), "embodiment": torch.zeros(clips, dtype=torch.int64),
        "position": torch.arange(clips),
    }  # fmt: skip
