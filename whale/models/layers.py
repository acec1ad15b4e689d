"""Building blocks of every network here: a spatial-temporal transformer block (WHALE, section 4: Whale-ST).

Legend: B batch, T frames, S tokens a frame, D width, W width of the temporal band.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whale.models.attention import Attention
from whale.models.frame_cache import Remember
from whale.models.linear import Linear
from whale.models.norm import RMSNorm


def full_precision(x: Tensor) -> torch.autocast:
    """A block in which autocast is off: distances between codes lose their order in bfloat16."""
    return torch.autocast(x.device.type, enabled=False)


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError unless heads divide the width into even parts (rotation pairs channels)."""
    if width % (2 * heads):
        raise ValueError(f"width {width} is not a multiple of twice the {heads} heads")


def swiglu_hidden(width: int) -> int:
    """Hidden width of SwiGLU: 8/3 D keeps a block at 16 D^2; a multiple of 32 keeps matrix products aligned."""
    return max(32, round(8 * width / 3 / 32) * 32)


class SwiGLU(nn.Module):
    """Gated feed-forward layer of 8 D^2 parameters."""

    def __init__(self, width: int):
        super().__init__()
        hidden = swiglu_hidden(width)
        self.gate_and_value = Linear(width, 2 * hidden, bias=False)
        self.out = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, value = self.gate_and_value(x).chunk(2, -1)
        return self.out(F.silu(gate) * value)


class ResidualSwiGLU(nn.Module):
    """A residual feed-forward layer on each vector alone."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.mlp = RMSNorm(width), SwiGLU(width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return x + self.mlp(self.norm(x))


class LocalStem(nn.Module):
    """Code vectors to the transformer's width through a 3 x 3 convolution over the token grid.

    What a token becomes, or how it decodes, depends first on its neighbours; attention alone finds that out slowly.
    """

    def __init__(self, code_dim: int, width: int):
        super().__init__()
        self.mix = nn.Conv2d(code_dim, width, 3, padding=1)

    def forward(self, codes_BTSC: Tensor) -> Tensor:
        """[B, T, S, C] with S a square grid -> [B, T, S, D]."""
        batch, frames, tokens, dim = codes_BTSC.shape
        grid = round(tokens**0.5)
        x_NCGG = codes_BTSC.reshape(batch * frames, grid, grid, dim).permute(0, 3, 1, 2)
        if len(x_NCGG) == 1 and x_NCGG.device.type == "cpu" and not torch.is_grad_enabled():
            x_NCGG = torch.cat([x_NCGG, x_NCGG])  # one alone is summed in another order than beside others
        return self.mix(x_NCGG)[: batch * frames].flatten(2).transpose(1, 2).unflatten(0, (batch, frames))


class SpatialTemporalBlock(nn.Module):
    """Attention inside each frame, causal banded attention at each position over frames, then a feed-forward layer.

    A frame costs O(S^2 + S W). Either half may be left out.
    """

    def __init__(self, width: int, heads: int, has_time: bool = True, has_space: bool = True):
        super().__init__()
        if has_space:
            self.norm_spatial, self.spatial = RMSNorm(width), Attention(width, heads)
        self.has_space = has_space
        if has_time:
            self.norm_temporal, self.temporal = RMSNorm(width), Attention(width, heads, temporal=True)
        self.has_time = has_time
        self.norm_mlp, self.mlp = RMSNorm(width), SwiGLU(width)

    def forward(
        self,
        x_BTSD: Tensor,
        mask: Tensor | None = None,
        turn: Tensor | None = None,
        remember: Remember | None = None,
        keep_3BD: Tensor | None = None,
    ) -> Tensor:
        """[B, T, S, D] -> [B, T, S, D].

        The temporal half sees by `mask`, `turn` and `remember` of a `Sight`; `keep_3BD` scales the channels of what
        each layer adds (dropout).
        """
        if self.has_space:
            x_BTSD = x_BTSD + _dropped(self.spatial(self.norm_spatial(x_BTSD)), keep_3BD, 0)
        if self.has_time:
            x_BTSD = x_BTSD + _dropped(self.temporal(self.norm_temporal(x_BTSD), mask, turn, remember), keep_3BD, 1)
        return x_BTSD + _dropped(self.mlp(self.norm_mlp(x_BTSD)), keep_3BD, 2)


def _dropped(x_BTSD: Tensor, keep_3BD: Tensor | None, layer: int) -> Tensor:
    return x_BTSD if keep_3BD is None else x_BTSD * keep_3BD[layer, :, None, None].to(x_BTSD.dtype)
