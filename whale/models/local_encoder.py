"""An encoder of patches that is wider than their codes, and may see the patches around.

Legend: N frames, S patches a frame (G x G grid), P values a patch, C code dim, D width.
"""

import torch
from torch import Tensor, nn

from whale.models.layers import Attention, ResidualSwiGLU, RMSNorm


def window_mask(grid: int, reach: int) -> Tensor:
    """Bool [S, S]: a place sees those at most `reach` rows and columns away."""
    place = torch.arange(grid)
    near = (place[:, None] - place).abs() <= reach
    return (near[:, None, :, None] & near[None, :, None, :]).reshape(grid**2, grid**2)


class WindowAttention(nn.Module):
    """A residual layer of attention over the places around, which it tells apart by where they lie in the frame."""

    mask_SS: Tensor

    def __init__(self, width: int, heads: int, grid: int, reach: int):
        super().__init__()
        self.position_SD = nn.Parameter(0.02 * torch.randn(grid**2, width))
        self.norm, self.attention = RMSNorm(width), Attention(width, heads)
        self.register_buffer("mask_SS", window_mask(grid, reach), persistent=False)

    def forward(self, x_NSD: Tensor) -> Tensor:
        """[N, S, D] -> [N, S, D]."""
        return x_NSD + self.attention(self.norm(x_NSD + self.position_SD), mask=self.mask_SS)


class LocalEncoder(nn.Module):
    """What is added to the linear components of a patch to make its code; starts as zero.

    The first of its layers looks `reach` places around (none where that is 0), so a code is a function of those
    patches alone.
    """

    def __init__(self, values: int, dim: int, width: int, heads: int, depth: int, grid: int, reach: int):
        super().__init__()
        self.patch_to_width = nn.Linear(values, width)
        layers: list[nn.Module] = [WindowAttention(width, heads, grid, reach)] if reach else []
        self.blocks = nn.Sequential(*layers, *(ResidualSwiGLU(width) for _ in range(depth)))
        self.norm, self.width_to_code = RMSNorm(width), nn.Linear(width, dim, bias=False)
        nn.init.zeros_(self.width_to_code.weight)

    def forward(self, patches_NSP: Tensor) -> Tensor:
        """[N, S, P] -> [N, S, C]."""
        return self.width_to_code(self.norm(self.blocks(self.patch_to_width(patches_NSP))))
