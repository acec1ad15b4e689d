"""Finite scalar quantisation (Mentzer et al., 2023): each component of a code is rounded to one of a few levels.

The codebook is the grid of all combinations. There is nothing in it to learn, to collapse or to revive, and the nearest
code is found by rounding. Legend: M vectors, C their dimension, V codes.
"""

import math

import torch
from torch import Tensor, nn

from whale.config import configclass
from whale.models.layers import full_precision

EPSILON = 1e-3


@configclass
class FSQConfig:
    """The grid of codes."""

    levels: tuple[int, ...]
    """L of each component of a code; the paper's choices are 8, 5, 5, 5 for 1000 codes and 7, 5, 5, 5, 5 for 4375."""

    def __post_init__(self) -> None:
        """Check the code range."""
        if not self.levels or min(self.levels) < 2 or self.num_codes > 65536:
            raise ValueError("levels are at least 2 each, and 65536 codes in all at the most")

    @property
    def num_codes(self) -> int:
        """V."""
        return math.prod(self.levels)

    @property
    def dim(self) -> int:
        """C."""
        return len(self.levels)


class FiniteScalarQuantizer(nn.Module):
    """Rounds bounded vectors to levels from -1 to 1 in each component (of an even number, 1 itself is left out)."""

    codebook_VC: Tensor
    shift_C: Tensor
    levels_C: Tensor
    stride_C: Tensor

    def __init__(self, config: FSQConfig):
        super().__init__()
        self.config = config
        levels_C = torch.tensor(config.levels)
        stride_C = torch.cat([torch.ones_like(levels_C[:1]), levels_C.cumprod(0)[:-1]])
        level_VC = torch.arange(config.num_codes)[:, None] // stride_C % levels_C
        # What `bound` adds first, so that zero stays zero; minus this comes to lie amid the levels.
        shift_C = (0.5 * (levels_C % 2 == 0) / ((levels_C - 1) * (1 + EPSILON) / 2)).atanh()
        self.register_buffer("shift_C", shift_C, persistent=False)
        self.register_buffer("levels_C", levels_C, persistent=False)
        self.register_buffer("stride_C", stride_C, persistent=False)
        self.register_buffer("codebook_VC", (level_VC - levels_C // 2) / (levels_C // 2), persistent=False)

    def bound(self, x_MC: Tensor) -> Tensor:
        """Anything to where rounding gives a level: (-1, 1), for even L moved down by half a step (appendix A.1)."""
        with full_precision(x_MC):
            half_C, offset_C = (self.levels_C - 1) * (1 + EPSILON) / 2, 0.5 * (self.levels_C % 2 == 0)
            x_MC = x_MC.to(self.codebook_VC.dtype) + self.shift_C
            return (x_MC.tanh() * half_C - offset_C) / (self.levels_C // 2)

    def nearest(self, x_MC: Tensor) -> Tensor:
        """Index of the nearest code, int64 [M]."""
        half_C = self.levels_C // 2
        level_MC = (x_MC * half_C).round().long() + half_C
        return (level_MC.clamp_min(0).minimum(self.levels_C - 1) * self.stride_C).sum(-1)

    def forward(self, x_MC: Tensor) -> tuple[Tensor, Tensor]:
        """Straight-through codes [M, C] and tokens int64 [M]."""
        token_M = self.nearest(x_MC.detach())
        return x_MC + (self.codebook_VC[token_M] - x_MC).detach(), token_M

    def fit(self, x_MC: Tensor, weight_M: Tensor, generator: torch.Generator) -> None:
        """Nothing: the grid is the same for all data."""
