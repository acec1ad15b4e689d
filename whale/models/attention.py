"""Attention over the places of a frame, or over frames: banded and cached.

Legend: T queries, L keys, N heads, H head dim, D width; `...` any number of dimensions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whale.models.norm import RMSNorm

GRID = 65_535
"""Most blocks of a CUDA kernel along its second and third dimension, over which attention spreads heads and groups."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask_TL: Tensor | None = None) -> Tensor:
    """Softmax attention of independent groups: queries [..., N, T, H], scaled, keys and values [..., N, L, H]."""
    return (attend_written_out if q.device.type == "cpu" else attend_fused)(q, k, v, mask_TL)


def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask_TL: Tensor | None = None) -> Tensor:
    """In one kernel, or in several where there are more groups than one has room for; they take four dimensions."""
    parts = zip(*(x.flatten(0, -4).split(GRID) for x in (q, k, v)), strict=True)
    found = [
        F.scaled_dot_product_attention(q_MNTH, k_MNLH, v_MNLH, attn_mask=mask_TL, scale=1.0)
        for q_MNTH, k_MNLH, v_MNLH in parts
    ]
    return (found[0] if len(found) == 1 else torch.cat(found)).unflatten(0, q.shape[:-3])


def attend_written_out(q: Tensor, k: Tensor, v: Tensor, mask_TL: Tensor | None = None) -> Tensor:
    """In three operations: on a CPU, with their backward pass, no slower than the kernel from 8 to 257 keys."""
    bias_TL = torch.zeros(q.shape[-2], k.shape[-2], dtype=q.dtype, device=q.device)
    if mask_TL is not None:
        bias_TL = bias_TL.masked_fill(~mask_TL, float("-inf"))
    q_MTH, k_MLH, v_MLH = (x.flatten(0, -3) for x in (q, k, v))
    scores_MTL = torch.baddbmm(bias_TL, q_MTH, k_MLH.mT)
    return torch.bmm(scores_MTL.softmax(-1), v_MLH).unflatten(0, q.shape[:-2])


def band_mask(num_queries: int, num_keys: int, width: int, device: torch.device) -> Tensor:
    """Bool [T, L]: a query sees itself and the width - 1 keys before; the last key is the last query's own."""
    query_T1 = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    key_1L = torch.arange(num_keys, device=device)[None]
    return (key_1L <= query_T1) & (key_1L > query_T1 - width)


def rotate(x: Tensor, start: int) -> Tensor:
    """Rotary position embedding of [..., T, H] over frames start, start + 1, ... (Su et al., 2021), half-split."""
    half = x.shape[-1] // 2
    frequency = 100.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    frame = torch.arange(start, start + x.shape[-2], device=x.device, dtype=torch.float32)
    angle = frame[:, None] * frequency
    return _Rotation.apply(x, angle.cos().to(x.dtype), angle.sin().to(x.dtype))  # type: ignore[no-untyped-call]


class _Rotation(torch.autograd.Function):
    """Two passes over memory; autograd's own backward pass of slices fills a zero tensor for each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        a, b = x.chunk(2, -1)
        out = x * cos.repeat(1, 2)
        out_a, out_b = out.chunk(2, -1)
        out_a.addcmul_(b, sin, value=-1)
        out_b.addcmul_(a, sin)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _Rotation.apply(gradient, cos, -sin), None, None  # type: ignore[no-untyped-call]


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys.

    With `band`, over the second dimension of [B, T, ..., D], causal and reaching back `band` - 1 frames; otherwise over
    the last but one of [..., L, D], every place seeing every other or those in a bool mask [L, L].
    """

    def __init__(self, width: int, heads: int, band: int | None = None):
        super().__init__()
        self.heads, self.band = heads, band
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_q, self.norm_k = RMSNorm(width // heads), RMSNorm(width // heads)

    def forward(
        self, x: Tensor, start: int = 0, cache: "FrameCache | None" = None, mask: Tensor | None = None
    ) -> Tensor:
        """To the same shape; `start` is the index of the first frame, `cache` holds the frames before it."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        over = -3 if self.band is None else 1
        q, k = self.norm_q(q, q.shape[-1] ** -0.5), self.norm_k(k)
        q, k, v = (y.movedim(over, -2) for y in (q, k, v))
        if self.band is not None:
            q, k = rotate(q, start), rotate(k, start)
            if cache is not None:
                k, v = cache.extend(k, v, keep=self.band - 1)
            mask = band_mask(q.shape[-2], k.shape[-2], self.band, q.device)
        return self.out(attend(q, k, v, mask).movedim(-2, over).flatten(-2))


class FrameCache:
    """Keys and values of the last frames of one temporal attention layer, [..., L, H], L < band."""

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Append new frames, return all keys and values, and retain the last `keep` frames."""
        if self.k is not None and self.v is not None:
            k, v = torch.cat([self.k, k], -2), torch.cat([self.v, v], -2)
        first = max(0, k.shape[-2] - keep)
        self.k, self.v = k[..., first:, :].detach(), v[..., first:, :].detach()
        return k, v
