"""The world model: tokenizer, behaviour and dynamics in one exported folder.

Legend as in `whale.models.dynamics`. Token tensors are int64, frames uint8, actions float32 in physical units at the
outside and scaled per dataset inside.
"""

from dataclasses import field

import numpy as np
import torch
from torch import Tensor

from whale.actions import ActionScale, ActionStatus
from whale.clips.clip import ActionType
from whale.config import configclass
from whale.models.behavior import Behavior, BehaviorConfig, Gaussian
from whale.models.dataset_card import DatasetCard
from whale.models.dynamics import ACTION_FEATURES, Dynamics, DynamicsConfig, Prediction, action_features
from whale.models.frame_cache import Sight
from whale.models.tokenizer import TokenizerConfig, VideoTokenizer
from whale.pretrained import PretrainedModel


@configclass
class WorldModelConfig:
    """Everything needed to build a world model."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    """The video tokenizer."""
    dynamics: DynamicsConfig = DynamicsConfig()
    """The dynamics."""
    behavior: BehaviorConfig = BehaviorConfig()
    """The behaviour networks."""
    datasets: dict[str, DatasetCard] = field(default_factory=dict)
    """The datasets it was trained on, by name; their sorted order numbers the embodiments."""


class WorldModel(PretrainedModel):
    """Imagines the next frame, its reward and whether the episode ends."""

    KIND = "world_model"
    CONFIG = WorldModelConfig
    config: WorldModelConfig
    reward_mean: Tensor
    reward_std: Tensor

    def __init__(self, config: WorldModelConfig):
        super().__init__(config)
        self.tokenizer = VideoTokenizer(config.tokenizer)
        grid, code_dim = config.tokenizer.grid, config.tokenizer.quantizer.dim
        self.behavior = Behavior(code_dim, grid**2, ACTION_FEATURES, config.dynamics.band, config.behavior)
        self.dynamics = Dynamics(
            (config.tokenizer.quantizer.num_codes, code_dim),
            grid,
            len(config.datasets),
            config.behavior.dim,
            config.dynamics,
        )
        cards = [config.datasets[name] for name in sorted(config.datasets)]
        self.register_buffer("reward_mean", torch.tensor([c.reward_mean for c in cards]), persistent=False)
        self.register_buffer("reward_std", torch.tensor([c.reward_std for c in cards]), persistent=False)

    @property
    def scales(self) -> dict[str, ActionScale]:
        """Action scale by dataset, in the order of the embodiments."""
        return {name: self.config.datasets[name].scale for name in sorted(self.config.datasets)}

    def codes(self, tokens_BTS: Tensor) -> Tensor:
        """Code vectors [B, T, S, C] of tokens, from the table that also scores the next token."""
        return self.tokenizer.quantizer.codebook_VC[tokens_BTS]

    def action_features(self, batch: dict[str, Tensor]) -> Tensor:
        """Features [B, T, F] of a batch's scaled actions."""
        return action_features(batch["actions"], batch["action_mask"], batch["action_status"], batch["action_type"])

    def prior(self, summary_BTD: Tensor, action_BTF: Tensor) -> Gaussian:
        """p(z | tau_h) over a whole clip: each frame with the action before it."""
        previous_BTF = torch.cat([torch.zeros_like(action_BTF[:, :1]), action_BTF[:, :-1]], 1)
        return self.behavior.infer_prior(summary_BTD, previous_BTF)

    def embed(self, codes_BTSC: Tensor, action_BTF: Tensor, z_BTZ: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Inputs of the dynamics' transformer, [B, T, S + 1, D]; `batch` as in `predict`."""
        return self.dynamics.embed(codes_BTSC, action_BTF, z_BTZ, batch["control_period_sec"], batch["embodiment"])

    def predict(
        self,
        tokens_BTS: Tensor,
        action_BTF: Tensor,
        z_BTZ: Tensor,
        batch: dict[str, Tensor],
        sight: Sight | None = None,
        keep: Tensor | None = None,
        codes: Tensor | None = None,
    ) -> Prediction:
        """Next-frame prediction at every frame; `batch` gives `control_period_sec` and `embodiment`, both [B].

        `keep` is a dropout mask of `Dynamics.draw_keep`, one for a whole rollout; without it the mean model predicts.
        `codes` [B, T, S, C] stand in for those of the tokens: the same with noise, say.
        """
        codes_BTSC = self.codes(tokens_BTS) if codes is None else codes
        x_BTRD = self.embed(codes_BTSC, action_BTF, z_BTZ, batch)
        codebook_VC = self.tokenizer.quantizer.codebook_VC
        return self.dynamics(codebook_VC, tokens_BTS, codes_BTSC, x_BTRD, sight, keep)

    def scale_reward(self, batch: dict[str, Tensor]) -> Tensor:
        """Rewards [B, T] in units of their dataset's standard deviation around its mean."""
        mean_B1, std_B1 = (value[batch["embodiment"]][:, None] for value in (self.reward_mean, self.reward_std))
        return (batch["rewards"] - mean_B1) / std_B1

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> tokens int64 [N, S]."""
        device = self.dynamics.position_RD.device
        return self.tokenizer.encode(torch.from_numpy(frames).to(device)).cpu().numpy()

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens int64 [B, T, S] -> frames uint8 [B, T, H, W, 3]."""
        device = self.dynamics.position_RD.device
        return self.tokenizer.decode(torch.from_numpy(tokens).to(device)).cpu().numpy()

    def action_inputs(self, dataset: str, num: int, control_period_sec: float) -> dict[str, Tensor]:
        """The constant entries of a batch of `num` clips of one dataset, for imagination."""
        card, weight = self.config.datasets[dataset], self.dynamics.position_RD
        device, dtype = weight.device, weight.dtype
        kinds = [kind.value for kind in ActionType]
        return {
            "action_status": torch.tensor(card.action_status, device=device).expand(num, -1),
            "action_type": torch.full((num,), kinds.index(card.action_type), device=device),
            "control_period_sec": torch.full((num,), control_period_sec, device=device, dtype=dtype),
            "embodiment": torch.full((num,), list(self.scales).index(dataset), device=device),
            "actuated": torch.tensor([s == ActionStatus.ACTUATED for s in card.action_status], device=device),
        }
