import torch

from whale.models.layers import SpatialTemporalBlock, SwiGLU


def test_a_block_has_16_squared_widths():
    width = 96
    block = SpatialTemporalBlock(width, 4)
    matrices = sum(p.numel() for p in block.parameters() if p.ndim == 2)
    assert matrices == 16 * width**2
    assert sum(p.numel() for p in SwiGLU(width).parameters()) == 8 * width**2


def test_swiglu_is_the_definition():
    torch.manual_seed(0)
    layer, x = SwiGLU(4).double(), torch.randn(3, 4, dtype=torch.float64)
    gate, value = (layer.gate_and_value.weight @ x[0]).chunk(2)
    torch.testing.assert_close(layer(x)[0], layer.out.weight @ (gate / (1 + (-gate).exp()) * value))


def test_spatial_attention_stays_inside_its_frame():
    torch.manual_seed(0)
    block = SpatialTemporalBlock(16, 2, has_time=False)
    x = torch.randn(1, 3, 4, 16)
    changed = x.clone()
    changed[0, 1, 2] += 1
    difference = (block(x) - block(changed)).abs().sum((0, 2, 3))
    assert difference[1] > 0 and difference[0] == 0 and difference[2] == 0
