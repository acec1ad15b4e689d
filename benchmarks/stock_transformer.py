"""The yardstick of `step_over_stock`: the same transformer from PyTorch's own modules, as one would first write it.

nn.Linear, nn.RMSNorm and scaled_dot_product_attention; the same shapes, parameters and values.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whale.models.frame_cache import band_mask
from whale.models.layers import SpatialTemporalBlock, SwiGLU
from whale.models.norm import EPSILON, RMSNorm


class StockFeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_and_value = nn.Linear(width, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, value = self.gate_and_value(x).chunk(2, -1)
        return self.out(F.silu(gate) * value)


class StockAttention(nn.Module):
    """Over the middle dimension of [M, L, D]; with `band`, rotary and causal."""

    def __init__(self, width: int, heads: int, band: int | None, frames: int):
        super().__init__()
        self.heads, self.band = heads, band
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_q, self.norm_k = (nn.RMSNorm(width // heads, EPSILON) for _ in range(2))
        half = width // heads // 2
        angle = torch.arange(frames)[:, None] * 100.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angle.sin().repeat(1, 2), persistent=False)
        mask = band_mask(frames, frames, band or frames, torch.device("cpu"))
        self.register_buffer("mask", mask, persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        """[..., L, H] by the table."""
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x_MLD: Tensor) -> Tensor:
        """[M, L, D] -> [M, L, D]."""
        q, k, v = self.qkv(x_MLD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, mask = self.norm_q(q), self.norm_k(k), None
        if self.band is not None:
            q, k, mask = self.rotate(q), self.rotate(k), self.mask
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class StockBlock(nn.Module):
    """Takes the weights of a `SpatialTemporalBlock`."""

    def __init__(self, block: SpatialTemporalBlock, band: int, frames: int):
        super().__init__()
        width, self.has_space = block.mlp.out.out_features, block.has_space
        if block.has_space:
            self.norm_spatial = nn.RMSNorm(width, EPSILON)
            self.spatial = StockAttention(width, block.spatial.heads, None, frames)
        self.norm_temporal = nn.RMSNorm(width, EPSILON)
        self.temporal = StockAttention(width, block.temporal.heads, band, frames)
        self.norm_mlp, self.mlp = nn.RMSNorm(width, EPSILON), StockFeedForward(width, block.mlp.out.in_features)

    def forward(self, x_BTSD: Tensor, *_: object) -> Tensor:
        """[B, T, S, D] -> [B, T, S, D]."""
        batch, _, tokens, _ = x_BTSD.shape
        if self.has_space:
            x_BTSD = x_BTSD + self.spatial(self.norm_spatial(x_BTSD).flatten(0, 1)).view(x_BTSD.shape)
        x_MTD = self.norm_temporal(x_BTSD).transpose(1, 2).flatten(0, 1)
        x_BTSD = x_BTSD + self.temporal(x_MTD).unflatten(0, (batch, tokens)).transpose(1, 2)
        return x_BTSD + self.mlp(self.norm_mlp(x_BTSD))


def _stock(module: nn.Module, band: int, frames: int) -> nn.Module | None:
    if isinstance(module, RMSNorm):
        return nn.RMSNorm(len(module.weight), EPSILON)
    if isinstance(module, SwiGLU):
        return StockFeedForward(module.out.out_features, module.out.in_features)
    return StockBlock(module, band, frames) if isinstance(module, SpatialTemporalBlock) else None


def stock(objective: nn.Module, frames: int) -> nn.Module:
    """A copy with the same weights, in which every block, norm and feed-forward layer that is trained is stock."""
    twin, band = copy.deepcopy(objective), objective.model.dynamics.transformer.band

    def replace(parent: nn.Module) -> None:
        for name, child in list(parent.named_children()):
            other = _stock(child, band, frames)
            if other is None:
                replace(child)
            else:
                setattr(parent, name, other)

    replace(twin.model.dynamics)
    replace(twin.model.behavior)
    twin.load_state_dict(objective.state_dict())
    return twin
