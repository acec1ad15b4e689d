"""Building blocks of every network here: a spatial-temporal transformer block (WHALE, section 4: Whale-ST).

Legend: B batch, T frames, S tokens a frame, D width, N heads, H head dim, W width of the temporal band, L keys.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6


def full_precision(x: Tensor) -> torch.autocast:
    """A block in which autocast is off: distances between codes lose their order in bfloat16."""
    return torch.autocast(x.device.type, enabled=False)


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError unless heads divide the width into even parts (rotation pairs channels)."""
    if width % (2 * heads):
        raise ValueError(f"width {width} is not a multiple of twice the {heads} heads")


class RMSNorm(nn.Module):
    """x / rms(x), scaled per channel."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape with the channels last."""
        if x.device.type == "cpu":
            return _RMSNormCPU.apply(x, self.weight.to(x.dtype))  # type: ignore[no-untyped-call]
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), EPSILON)


def _inverse_rms(x: Tensor) -> Tensor:
    square = torch.linalg.vector_norm(
        x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)
    ).square()
    return (square / x.shape[-1] + EPSILON).rsqrt().to(x.dtype)


class _RMSNormCPU(torch.autograd.Function):
    """The same in few passes over memory: a third of the time that torch 2.13 takes on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * _inverse_rms(x) * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        scale = _inverse_rms(x)  # computed again, so that second derivatives see it
        unit = x * scale
        inner = gradient * weight
        along = (inner * unit).mean(-1, keepdim=True)
        return scale * (inner - unit * along), (gradient * unit).flatten(0, -2).sum(0)


def swiglu_hidden(width: int) -> int:
    """Hidden width of SwiGLU: 8/3 D keeps a block at 16 D^2; a multiple of 32 keeps matrix products aligned."""
    return max(32, round(8 * width / 3 / 32) * 32)


class SwiGLU(nn.Module):
    """Gated feed-forward layer of 8 D^2 parameters."""

    def __init__(self, width: int):
        super().__init__()
        hidden = swiglu_hidden(width)
        self.gate_and_value = nn.Linear(width, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

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
        return self.mix(x_NCGG).flatten(2).transpose(1, 2).unflatten(0, (batch, frames))


def attend(q_MTNH: Tensor, k_MLNH: Tensor, v_MLNH: Tensor, mask_TL: Tensor | None = None) -> Tensor:
    """Softmax attention of M independent groups, [M, T, N, H].

    Written out: at 16 to 65 keys the fused kernel's backward pass is slower on a CPU.
    """
    scores_MNTL = torch.einsum("mtnh,mlnh->mntl", q_MTNH, k_MLNH) * q_MTNH.shape[-1] ** -0.5
    if mask_TL is not None:
        scores_MNTL = scores_MNTL.masked_fill(~mask_TL, float("-inf"))
    return torch.einsum("mntl,mlnh->mtnh", scores_MNTL.softmax(-1), v_MLNH)


def band_mask(num_queries: int, num_keys: int, width: int, device: torch.device) -> Tensor:
    """Bool [T, L]: a query sees itself and the width - 1 keys before; the last key is the last query's own."""
    query_T1 = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    key_1L = torch.arange(num_keys, device=device)[None]
    return (key_1L <= query_T1) & (key_1L > query_T1 - width)


def rotate(x_MTNH: Tensor, start: int) -> Tensor:
    """Rotary position embedding over frames start, start + 1, ... (Su et al., 2021), in the half-split layout."""
    half = x_MTNH.shape[-1] // 2
    frequency = 100.0 ** (-torch.arange(half, device=x_MTNH.device, dtype=torch.float32) / half)
    frame = torch.arange(start, start + x_MTNH.shape[1], device=x_MTNH.device, dtype=torch.float32)
    angle_T1H = (frame[:, None] * frequency)[:, None]
    cos, sin = angle_T1H.cos().to(x_MTNH.dtype), angle_T1H.sin().to(x_MTNH.dtype)
    a, b = x_MTNH[..., :half], x_MTNH[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys over the second dimension of [M, L, D].

    With `band` it is causal and reaches back `band` - 1 places; otherwise every place sees every other.
    """

    def __init__(self, width: int, heads: int, band: int | None = None):
        super().__init__()
        self.heads, self.band = heads, band
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_q, self.norm_k = RMSNorm(width // heads), RMSNorm(width // heads)

    def forward(self, x_MTD: Tensor, start: int = 0, cache: "FrameCache | None" = None) -> Tensor:
        """[M, T, D] -> [M, T, D]; `start` is the index of the first frame, `cache` holds the frames before it."""
        q, k, v = self.qkv(x_MTD).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = self.norm_q(q), self.norm_k(k)
        mask = None
        if self.band is not None:
            q, k = rotate(q, start), rotate(k, start)
            if cache is not None:
                k, v = cache.extend(k, v, keep=self.band - 1)
            mask = band_mask(q.shape[1], k.shape[1], self.band, q.device)
        return self.out(attend(q, k, v, mask).flatten(-2))


class FrameCache:
    """Keys and values of the last frames of one temporal attention layer, [M, L, N, H], L < band."""

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Append new frames, return all keys and values, and retain the last `keep` frames."""
        if self.k is not None and self.v is not None:
            k, v = torch.cat([self.k, k], 1), torch.cat([self.v, v], 1)
        first = max(0, k.shape[1] - keep)
        self.k, self.v = k[:, first:].detach(), v[:, first:].detach()
        return k, v


class SpatialTemporalBlock(nn.Module):
    """Attention inside each frame, causal banded attention at each position over frames, then a feed-forward layer.

    A frame costs O(S^2 + S W). `band=None` leaves the temporal half out, `has_space=False` the spatial half.
    """

    def __init__(self, width: int, heads: int, band: int | None, has_space: bool = True):
        super().__init__()
        if has_space:
            self.norm_spatial, self.spatial = RMSNorm(width), Attention(width, heads)
        self.has_space = has_space
        if band is not None:
            self.norm_temporal, self.temporal = RMSNorm(width), Attention(width, heads, band)
        self.has_time = band is not None
        self.norm_mlp, self.mlp = RMSNorm(width), SwiGLU(width)

    def forward(
        self, x_BTSD: Tensor, start: int = 0, cache: FrameCache | None = None, keep_3BD: Tensor | None = None
    ) -> Tensor:
        """[B, T, S, D] -> [B, T, S, D]; `keep_3BD` scales the channels of what each layer adds (dropout)."""
        batch, frames, tokens, _ = x_BTSD.shape
        if self.has_space:
            spatial = self.spatial(self.norm_spatial(x_BTSD).flatten(0, 1))
            x_BTSD = x_BTSD + _dropped(spatial.unflatten(0, (batch, frames)), keep_3BD, 0)
        if self.has_time:
            x_MTD = self.norm_temporal(x_BTSD).transpose(1, 2).flatten(0, 1)
            temporal = self.temporal(x_MTD, start, cache)
            x_BTSD = x_BTSD + _dropped(temporal.unflatten(0, (batch, tokens)).transpose(1, 2), keep_3BD, 1)
        return x_BTSD + _dropped(self.mlp(self.norm_mlp(x_BTSD)), keep_3BD, 2)


def _dropped(x_BTSD: Tensor, keep_3BD: Tensor | None, layer: int) -> Tensor:
    return x_BTSD if keep_3BD is None else x_BTSD * keep_3BD[layer, :, None, None].to(x_BTSD.dtype)
