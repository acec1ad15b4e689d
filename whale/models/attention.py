"""Attention over the places of a frame, or over frames.

Legend: T queries, L keys, N heads, H head dim, D width; `...` any number of dimensions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whale.models.frame_cache import Remember
from whale.models.linear import Linear
from whale.models.norm import RMSNorm

GRID = 65_535
"""Most blocks of a CUDA kernel along its second and third dimension, over which attention spreads heads and groups."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of independent groups: queries [..., N, T, H], scaled, keys and values [..., N, L, H].

    A bool mask says who sees whom: [T, L], or as many dimensions as the queries have, broadcast to [..., N, T, L].
    """
    return (attend_written_out if q.device.type == "cpu" else attend_fused)(q, k, v, mask)


def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """In one kernel, or in several where there are more groups than one has room for; they take four dimensions."""
    if mask is not None and mask.dim() > 2:  # another mask for each of the first, of which there are few
        q_BMTH, k_BMLH, v_BMLH, mask_B1TL = (x.flatten(1, -3) for x in (q, k, v, mask))
        out_BMTH = F.scaled_dot_product_attention(q_BMTH, k_BMLH, v_BMLH, attn_mask=mask_B1TL, scale=1.0)
        return out_BMTH.unflatten(1, q.shape[1:-2])
    parts = zip(*(x.flatten(0, -4).split(GRID) for x in (q, k, v)), strict=True)
    found = [
        F.scaled_dot_product_attention(q_MNTH, k_MNLH, v_MNLH, attn_mask=mask, scale=1.0)
        for q_MNTH, k_MNLH, v_MNLH in parts
    ]
    return (found[0] if len(found) == 1 else torch.cat(found)).unflatten(0, q.shape[:-3])


def attend_written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """In three operations: on a CPU, with their backward pass, no slower than the kernel from 8 to 257 keys."""
    shape = (q.shape[-2], k.shape[-2]) if mask is None else mask.shape
    bias = torch.zeros(shape, dtype=q.dtype, device=q.device)
    if mask is not None:
        bias.masked_fill_(~mask, float("-inf"))
    if bias.dim() > 2:
        bias = bias.expand(*q.shape[:-2], -1, -1).flatten(0, -3)
    q_MTH, k_MLH, v_MLH = (x.flatten(0, -3) for x in (q, k, v))
    scores_MTL = torch.baddbmm(bias, q_MTH, k_MLH.mT)
    return torch.bmm(scores_MTL.softmax(-1), v_MLH).unflatten(0, q.shape[:-2])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary position embedding of [..., T, H] by `whale.models.frame_cache.turns`, [2, ..., T, H / 2], half-split."""
    cos, sin = turn.to(x.dtype)
    if not torch.is_grad_enabled():
        return _turned(x, cos, sin)
    return _Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    out = x * torch.cat([cos, cos], -1)
    out_a, out_b = out.chunk(2, -1)
    out_a.addcmul_(b, sin, value=-1)
    out_b.addcmul_(a, sin)
    return out


class _Rotation(torch.autograd.Function):
    """Two passes over memory; autograd's own backward pass of slices fills a zero tensor for each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _Rotation.apply(gradient, cos, -sin), None, None  # type: ignore[no-untyped-call]


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys.

    Over the second dimension of [B, T, ..., D] if it is `temporal`, otherwise over the last but one of [..., L, D].
    """

    def __init__(self, width: int, heads: int, temporal: bool = False):
        super().__init__()
        self.heads, self.over = heads, 1 if temporal else -3
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)
        self.norm_q, self.norm_k = RMSNorm(width // heads), RMSNorm(width // heads)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, turn: Tensor | None = None, remember: Remember | None = None
    ) -> Tensor:
        """To the same shape; every place sees every other, or those in `mask`. Over frames: what a `Sight` holds."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        q, k = self.norm_q(q, q.shape[-1] ** -0.5), self.norm_k(k)
        q, k, v = (y.movedim(self.over, -2) for y in (q, k, v))
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        if remember is not None:
            k, v = remember(k, v)
        return self.out(attend(q, k, v, mask).movedim(-2, self.over).flatten(-2))
