"""Attention against the definition, written in explicit loops and complex numbers."""

import cmath
import math

import pytest
import torch
import torch.nn.functional as F

from whale.models import attention as attention_module
from whale.models.attention import Attention, attend, attend_fused, attend_written_out, rotate
from whale.models.frame_cache import band_mask, turns, whole_clip


def random_qkv(*shape):
    torch.manual_seed(0)
    return tuple(torch.randn(*shape, dtype=torch.float64) for _ in range(3))


def plain_attention(q, k, v, allowed):
    """One query at a time, [M, T, H], from the definition."""
    out = torch.zeros_like(q)
    for m in range(q.shape[0]):
        for t in range(q.shape[1]):
            scores = [float(q[m, t] @ k[m, j]) for j in allowed(t)]
            weights = [math.exp(s - max(scores)) for s in scores]
            for w, j in zip(weights, allowed(t), strict=True):
                out[m, t] += w / sum(weights) * v[m, j]
    return out


def at(start, frames, head_dim):
    return turns(torch.arange(start, start + frames), head_dim)


def turned(x_TH, start):
    """Channel i and i + H / 2 as a complex number, turned by frame x 100^(-2i / H)."""
    half = x_TH.shape[1] // 2
    out = torch.zeros_like(x_TH)
    for t in range(x_TH.shape[0]):
        for i in range(half):
            number = complex(x_TH[t, i], x_TH[t, half + i]) * cmath.exp(1j * (start + t) * 100 ** (-i / half))
            out[t, i], out[t, half + i] = number.real, number.imag
    return out


@pytest.mark.parametrize("width", [1, 3, 9])
def test_banded_attention_equals_the_definition(width):
    q, k, v = random_qkv(4, 7, 6)
    expected = plain_attention(q, k, v, lambda t: range(max(0, t - width + 1), t + 1))
    torch.testing.assert_close(attend(q, k, v, band_mask(7, 7, width, q.device)), expected)


def test_rotation_equals_complex_numbers():
    x = random_qkv(5, 8)[0]
    torch.testing.assert_close(rotate(x, at(3, 5, 8)), turned(x, 3))


@pytest.mark.parametrize("start", [10_000, 100_000])
def test_angles_are_right_at_late_frames(start):
    """In float32 too: what a query and a key make of each other depends on their distance alone, to rounding."""
    x, y = random_qkv(1, 8)[:2]
    torch.testing.assert_close(rotate(x, at(start, 1, 8)), turned(x, start))
    x, y = x.float(), y.float()
    early = (rotate(x, at(5, 1, 8)) * rotate(y, at(3, 1, 8))).sum()
    late = (rotate(x, at(start + 2, 1, 8)) * rotate(y, at(start, 1, 8))).sum()
    torch.testing.assert_close(late, early, atol=2e-6, rtol=0)


@pytest.mark.parametrize("band", [None, 1, 3])
def test_the_layer_equals_the_definition(band):
    """Projections, norms, rotation, heads and band together, one head of one stream at a time."""
    torch.manual_seed(0)
    attention, x = Attention(12, 2, bool(band)).double(), torch.randn(2, 5, 3, 12, dtype=torch.float64)
    for parameter in attention.parameters():
        parameter.requires_grad_(False).normal_()
    streams = x.transpose(1, 2) if band else x  # over frames at each place, or over places in each frame
    expected = torch.zeros_like(streams)
    for b in range(2):
        for i in range(streams.shape[1]):
            heads = []
            for n in range(2):
                rows = [slice(part * 12 + n * 6, part * 12 + n * 6 + 6) for part in range(3)]
                q, k, v = (streams[b, i] @ attention.qkv.weight[row].T for row in rows)
                q, k = (
                    y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
                    for y, norm in ((q, attention.norm_q), (k, attention.norm_k))
                )
                if band:
                    q, k = turned(q, 4), turned(k, 4)
                length = len(q)
                seen = (lambda t: range(max(0, t - band + 1), t + 1)) if band else (lambda t, m=length: range(m))
                heads.append(plain_attention(q[None] / math.sqrt(6), k[None], v[None], seen)[0])
            expected[b, i] = torch.cat(heads, -1) @ attention.out.weight.T
    got = attention(x, band_mask(5, 5, band, x.device), at(4, 5, 6)) if band else attention(x)
    torch.testing.assert_close(got.transpose(1, 2) if band else got, expected)


@pytest.mark.parametrize("width", [None, 1, 2])
@pytest.mark.parametrize("shape", [(3, 2, 5, 8), (2, 3, 2, 5, 8)])
def test_both_ways_of_attending_are_one_function(width, shape):
    """What a GPU runs, on the CPU: the same values and gradients as the way written out."""
    inputs = [x.requires_grad_() for x in random_qkv(*shape)]
    mask = None if width is None else band_mask(5, 5, width, torch.device("cpu"))
    written = attend_written_out(*inputs, mask)
    fused = attend_fused(*inputs, mask)
    torch.testing.assert_close(fused, written)
    up = torch.randn_like(written)
    for a, b in zip(torch.autograd.grad(fused, inputs, up), torch.autograd.grad(written, inputs, up), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(written, F.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=1.0))


@pytest.mark.parametrize("room", [6, 5, 2])
def test_more_groups_than_a_kernel_has_room_for(monkeypatch, room):
    inputs = random_qkv(2, 3, 2, 5, 8)
    monkeypatch.setattr(attention_module, "GRID", room)
    mask = band_mask(5, 5, 2, torch.device("cpu"))
    torch.testing.assert_close(attend_fused(*inputs, mask), attend_written_out(*inputs, mask))


def test_attention_can_be_differentiated_twice():
    torch.manual_seed(0)
    attention, sight = Attention(8, 2, temporal=True).double(), whole_clip(3, 2, 4, torch.device("cpu"))
    x = torch.randn(1, 3, 2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: attention(x, sight.mask, sight.turn), (x,))


def test_rotation_keeps_length_and_depends_on_distance_only():
    torch.manual_seed(0)
    x, y = torch.randn(1, 8, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64)
    torch.testing.assert_close(rotate(x, at(5, 1, 8)).norm(), x.norm())
    near = (rotate(x, at(7, 1, 8)) * rotate(y, at(4, 1, 8))).sum()
    far = (rotate(x, at(103, 1, 8)) * rotate(y, at(100, 1, 8))).sum()
    torch.testing.assert_close(near, far)
    assert abs(near - (rotate(x, at(7, 1, 8)) * rotate(y, at(5, 1, 8))).sum()) > 1e-3


@pytest.mark.parametrize("frames", [1, 2])
def test_each_stream_may_have_a_mask_of_its_own(frames):
    """Both ways, on [B, S, N, T, H] with a mask [B, 1, 1, T, L]."""
    q = random_qkv(2, 3, 2, frames, 8)[0]
    k, v = random_qkv(2, 3, 2, 6, 8)[:2]
    mask = torch.rand(2, 1, 1, frames, 6) < 0.5
    mask[..., 0] = True
    expected = torch.stack([F.scaled_dot_product_attention(q[b], k[b], v[b], mask[b, 0, 0], scale=1.0) for b in (0, 1)])
    torch.testing.assert_close(attend_written_out(q, k, v, mask), expected)
    torch.testing.assert_close(attend_fused(q, k, v, mask), expected)
