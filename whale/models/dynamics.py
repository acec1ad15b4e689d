"""Dynamics: tokens of frame t and the action in, all tokens of frame t+1 out in one step (WHALE, section 4: Whale-ST).

Frames enter as code vectors of the tokenizer's codebook; the same table scores the next token (a metric head: logits by
distance to the codes), beside a gate for "nothing changed here" and a small free head. One register position a frame
carries the action, the behaviour embedding, the control period and the embodiment, and feeds reward and termination.

Legend: B batch, T frames, S tokens a frame (G x G), R = S + 1, C code dim, D width, V codes, F action features, Z
embedding dim.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whale.actions import ACTION_DIM, ActionStatus
from whale.clips.clip import ActionType
from whale.config import configclass
from whale.models.frame_cache import Sight
from whale.models.layers import LocalStem, RMSNorm, SwiGLU, check_heads, full_precision
from whale.models.linear import Linear
from whale.models.st_transformer import SpatialTemporalTransformer

ACTION_FEATURES = ACTION_DIM * (1 + len(ActionStatus)) + len(ActionType)


@configclass
class DynamicsConfig:
    """Size of the dynamics."""

    width: int = 128
    """D."""
    heads: int = 4
    """N."""
    depth: int = 3
    """Spatial-temporal blocks, 16 D^2 parameters each."""
    band: int = 6
    """W: frames that temporal attention sees, the current one included. Training clips have at least 2 W frames."""
    dropout: float = 0.0
    """Share of the channels of each layer's output that a clip goes without, the same in all its frames."""
    action_blind: bool = False
    """Leave action and behaviour embedding out: the baseline that shows what actions are worth."""

    def __post_init__(self) -> None:
        """Check the heads and the band."""
        check_heads(self.width, self.heads)
        if self.band < 1 or self.depth < 1:
            raise ValueError("band and depth are at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not in [0, 1)")


class Prediction(NamedTuple):
    """What the dynamics say about the next frame."""

    logits_BTSV: Tensor
    reward_BT: Tensor
    """In units of the dataset's reward standard deviation, around its mean."""
    terminated_BT: Tensor
    """Logit of the next frame being terminal."""


def action_features(actions_BTA: Tensor, mask_BTA: Tensor, status_BA: Tensor, type_B: Tensor) -> Tensor:
    """Scaled action, status of each dimension and action type as one vector; unknown dimensions are zero and say so.

    Scaled actions, their bool mask, ActionStatus int64 [B, A], ActionType index int64 [B] -> [B, T, F].
    """
    status_BTA = torch.where(
        mask_BTA | (status_BA == ActionStatus.FIXED)[:, None], status_BA[:, None], int(ActionStatus.UNKNOWN)
    )
    one_hot = F.one_hot(status_BTA, len(ActionStatus)).flatten(-2).to(actions_BTA.dtype)
    kind = F.one_hot(type_B, len(ActionType)).to(actions_BTA.dtype)[:, None].expand(-1, actions_BTA.shape[1], -1)
    return torch.cat([actions_BTA * mask_BTA, one_hot, kind], -1)


def expected_codes(logits: Tensor, codebook_VC: Tensor) -> Tensor:
    """Probabilities times codes, [..., V] -> [..., C], in float32 at least: in bfloat16 a difference of two is lost."""
    with full_precision(logits):
        return logits.to(torch.promote_types(logits.dtype, codebook_VC.dtype)).softmax(-1) @ codebook_VC


class Dynamics(nn.Module):
    """Next-frame distribution over tokens, reward and termination."""

    def __init__(
        self,
        codebook_shape: tuple[int, int],
        grid: int,
        num_embodiments: int,
        behavior_dim: int,
        config: DynamicsConfig,
    ):
        super().__init__()
        self.config = config
        num_codes, code_dim = codebook_shape
        width = config.width
        self.stem = LocalStem(code_dim, width)
        self.position_RD = nn.Parameter(0.02 * torch.randn(grid**2 + 1, width))
        if not config.action_blind:
            self.action_in = nn.Sequential(Linear(ACTION_FEATURES, width), nn.SiLU(), Linear(width, width))
            self.behavior_in = Linear(behavior_dim, width, bias=False)
            nn.init.zeros_(self.behavior_in.weight)
        self.period_in = Linear(1, width)
        self.embodiment = nn.Embedding(num_embodiments, width)
        self.transformer = SpatialTemporalTransformer(width, config.heads, config.depth, config.band)
        self.code_shift = Linear(width, code_dim)
        self.sharpness = nn.Parameter(torch.zeros(1))  # DeepSpeed does not take parameters without dimensions
        self.copy_gate = Linear(width, 1)
        self.free_head = Linear(width, num_codes)
        self.outcome = nn.Sequential(RMSNorm(width), SwiGLU(width), Linear(width, 2))
        for layer in (self.embodiment, self.free_head, self.code_shift):
            nn.init.zeros_(layer.weight)

    def embed(
        self, codes_BTSC: Tensor, action_BTF: Tensor, z_BTZ: Tensor, period_B: Tensor, embodiment_B: Tensor
    ) -> Tensor:
        """Inputs of the transformer, [B, T, R, D]."""
        x_BTSD = self.stem(codes_BTSC)
        constant_BD = self.period_in(period_B[:, None].log()) + self.embodiment(embodiment_B)
        context_BTD = constant_BD[:, None].expand(-1, x_BTSD.shape[1], -1)
        if not self.config.action_blind:
            context_BTD = self.action_in(action_BTF) + self.behavior_in(z_BTZ) + context_BTD
        register_BT1D = context_BTD[:, :, None]
        return torch.cat([x_BTSD + register_BT1D, register_BT1D], 2) + self.position_RD

    def draw_keep(self, uniform: Callable[..., Tensor]) -> Tensor | None:
        """A dropout mask for each clip and layer (Gal and Ghahramani, 2016), [K, 3, B, D] with K blocks; None without.

        The same mask in every frame makes a pass, or a whole rollout, one sample of the model. `uniform` draws
        [B, *shape] in [0, 1) (`ClipNoise.uniform`). What is kept is scaled up, so that no mask is the mean model.
        """
        share = self.config.dropout
        if share == 0:
            return None
        kept_BK3D = uniform(self.config.depth, 3, self.config.width) >= share
        return kept_BK3D.movedim(0, 2).to(self.position_RD.dtype) / (1 - share)

    def forward(
        self,
        codebook_VC: Tensor,
        tokens_BTS: Tensor,
        codes_BTSC: Tensor,
        x_BTRD: Tensor,
        sight: Sight | None = None,
        keep_K3BD: Tensor | None = None,
    ) -> Prediction:
        """Predict frame t+1 at every t of a clip, or of frames that see by `sight`; `keep` of `draw_keep`."""
        return self.read_out(codebook_VC, tokens_BTS, codes_BTSC, self.look(x_BTRD, sight, keep_K3BD))

    def look(self, x_BTRD: Tensor, sight: Sight | None = None, keep_K3BD: Tensor | None = None) -> Tensor:
        """The transformer, [B, T, R, D] -> [B, T, R, D]; it may be in a shorter type than all around it."""
        inner = self.transformer.norm.weight.dtype
        h_BTRD: Tensor = self.transformer(x_BTRD.to(inner), sight, keep_K3BD)
        return h_BTRD if inner == x_BTRD.dtype else h_BTRD.to(x_BTRD.dtype)

    def read_out(self, codebook_VC: Tensor, tokens_BTS: Tensor, codes_BTSC: Tensor, h_BTRD: Tensor) -> Prediction:
        """The heads, on what the transformer gives."""
        h_BTSD, register_BTD = h_BTRD[:, :, :-1], h_BTRD[:, :, -1]
        reward_BT, terminated_BT = self.outcome(register_BTD).unbind(-1)
        return Prediction(self._logits(codebook_VC, tokens_BTS, codes_BTSC, h_BTSD), reward_BT, terminated_BT)

    def _logits(self, codebook_VC: Tensor, tokens_BTS: Tensor, codes_BTSC: Tensor, h_BTSD: Tensor) -> Tensor:
        """-sharpness |target - code|^2 + copy gate at the present code + free head."""
        free_BTSV, shift_BTSC, gate_BTS1 = self.free_head(h_BTSD), self.code_shift(h_BTSD), self.copy_gate(h_BTSD)
        with full_precision(h_BTSD):
            sharpness = self.sharpness.exp() / codebook_VC.shape[1] ** 0.5
            target_BTSC = codes_BTSC + shift_BTSC
            # |target|^2 is the same for every code and falls out of the softmax.
            metric_BTSV = F.linear(2 * sharpness * target_BTSC, codebook_VC, -sharpness * codebook_VC.square().sum(-1))
        logits_BTSV = free_BTSV + metric_BTSV
        return logits_BTSV.scatter_add_(-1, tokens_BTS[..., None], gate_BTS1.to(logits_BTSV.dtype))
