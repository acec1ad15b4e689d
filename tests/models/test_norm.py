import torch

from whale.models.norm import RMSNorm


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


def test_rms_norm_is_the_definition():
    x = torch.randn(4, 32)
    torch.testing.assert_close(RMSNorm(32)(x), x / x.square().mean(-1, keepdim=True).add(1e-6).sqrt())
