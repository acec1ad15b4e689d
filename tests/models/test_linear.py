"""The layer equals PyTorch's, whichever kernel computes it."""

import pytest
import torch
from torch import nn

from whale.models import linear
from whale.models.linear import Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 0, 5), (2, 3, 7, 5)])
def test_equals_pytorch(shape, bias):
    torch.manual_seed(0)
    layer, x = Linear(5, 11, bias), torch.randn(shape)
    reference = nn.Linear(5, 11, bias).double()
    reference.load_state_dict(layer.state_dict())
    expected = reference(x.double())
    with torch.no_grad():
        assert layer(x).shape == expected.shape
        torch.testing.assert_close(layer(x).double(), expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(layer.double()(x.double()), expected, atol=1e-14, rtol=1e-14)
        assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_takes_what_is_not_contiguous():
    layer, x = Linear(6, 4), torch.randn(6, 9, 8)
    for view in (x.movedim(0, -1), x.movedim(0, -1)[:, ::2], x[:, :1].expand(-1, 5, -1).mT.movedim(0, -1)):
        torch.testing.assert_close(layer(view), layer(view.contiguous()))
        torch.testing.assert_close(layer(view), nn.functional.linear(view, layer.weight, layer.bias))


def test_learns():
    layer = Linear(3, 2)
    layer(torch.ones(4, 3)).sum().backward()
    assert torch.equal(layer.weight.grad, torch.full((2, 3), 4.0))


@torch.no_grad()
def test_a_build_without_the_kernel_takes_pytorchs_own(monkeypatch):
    monkeypatch.setattr(linear, "ONEDNN", None)
    layer, x = Linear(5, 3), torch.randn(2, 5)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@torch.no_grad()
def test_autocast_reigns():
    with torch.autocast("cpu", torch.bfloat16):
        assert Linear(3, 2)(torch.ones(4, 3)).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(128, 256), (352, 128), (6, 4), (24, 1)])
@pytest.mark.usefixtures("known_cpu")
@torch.no_grad()
def test_a_vector_gives_the_same_bits_whatever_stands_beside_it(shape):
    torch.manual_seed(0)
    layer, x, threads = Linear(*shape), torch.randn(40, shape[0]), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for size in (1, 2, 3, 5, 8):
            parts = torch.cat([layer(part) for part in x.split(size)])
            assert torch.equal(parts, layer(x)), size
    finally:
        torch.set_num_threads(threads)
