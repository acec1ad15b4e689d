import math

import pytest
import torch

from whale.models.layers import Attention, FrameCache, RMSNorm, SpatialTemporalBlock, SwiGLU, attend, band_mask, rotate


def plain_attention(q, k, v, allowed):
    """One query and one head at a time, from the definition."""
    out = torch.zeros_like(q)
    for m in range(q.shape[0]):
        for t in range(q.shape[1]):
            for n in range(q.shape[2]):
                scores = [float(q[m, t, n] @ k[m, j, n]) / math.sqrt(q.shape[-1]) for j in allowed(t)]
                weights = [math.exp(s - max(scores)) for s in scores]
                for w, j in zip(weights, allowed(t), strict=True):
                    out[m, t, n] += w / sum(weights) * v[m, j, n]
    return out


@pytest.mark.parametrize("width", [1, 3, 9])
def test_banded_attention_equals_the_definition(width):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 7, 2, 4, dtype=torch.float64) for _ in range(3))
    expected = plain_attention(q, k, v, lambda t: range(max(0, t - width + 1), t + 1))
    torch.testing.assert_close(attend(q, k, v, band_mask(7, 7, width, q.device)), expected)


def test_attention_matches_torch():
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 5, 2, 8, dtype=torch.float64) for _ in range(3))
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads_first).transpose(1, 2)
    torch.testing.assert_close(attend(q, k, v), expected)


def test_rotation_keeps_length_and_depends_on_distance_only():
    torch.manual_seed(0)
    x, y = torch.randn(1, 1, 1, 8, dtype=torch.float64), torch.randn(1, 1, 1, 8, dtype=torch.float64)
    torch.testing.assert_close(rotate(x, 5).norm(), x.norm(), atol=1e-6, rtol=0)
    near = (rotate(x, 7) * rotate(y, 4)).sum()
    far = (rotate(x, 103) * rotate(y, 100)).sum()
    torch.testing.assert_close(near, far, atol=1e-4, rtol=0)
    assert abs(near - (rotate(x, 7) * rotate(y, 5)).sum()) > 1e-3


def test_rms_norm_equals_torch_with_its_derivatives():
    torch.manual_seed(0)
    norm = RMSNorm(6).double()
    norm.weight.data = torch.randn(6, dtype=torch.float64)
    x = torch.randn(3, 2, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(norm(x), torch.nn.functional.rms_norm(x, (6,), norm.weight, 1e-6))

    def apply(value, weight):
        return torch.func.functional_call(norm, {"weight": weight}, (value,))

    assert torch.autograd.gradcheck(apply, (x, norm.weight))
    assert torch.autograd.gradgradcheck(apply, (x, norm.weight))


def test_rms_norm_and_block_size():
    x = torch.randn(4, 32)
    torch.testing.assert_close(RMSNorm(32)(x), x / x.square().mean(-1, keepdim=True).add(1e-6).sqrt())
    width = 96
    block = SpatialTemporalBlock(width, 4, band=3)
    matrices = sum(p.numel() for p in block.parameters() if p.ndim == 2)
    assert matrices == 16 * width**2
    assert sum(p.numel() for p in SwiGLU(width).parameters()) == 8 * width**2


@pytest.mark.parametrize("chunks", [(7,), (1,) * 7, (3, 1, 3), (2, 5)])
def test_cached_attention_equals_whole_sequence(chunks):
    torch.manual_seed(0)
    attention, x = Attention(16, 2, band=3).double(), torch.randn(2, 7, 16, dtype=torch.float64)
    cache, parts, start = FrameCache(), [], 0
    for chunk in chunks:
        parts.append(attention(x[:, start : start + chunk], start, cache))
        start += chunk
    torch.testing.assert_close(torch.cat(parts, 1), attention(x))
    assert cache.k.shape[1] == 2  # no more than the band needs


def test_spatial_attention_stays_inside_its_frame():
    torch.manual_seed(0)
    block = SpatialTemporalBlock(16, 2, band=None)
    x = torch.randn(1, 3, 4, 16)
    changed = x.clone()
    changed[0, 1, 2] += 1
    difference = (block(x) - block(changed)).abs().sum((0, 2, 3))
    assert difference[1] > 0 and difference[0] == 0 and difference[2] == 0
