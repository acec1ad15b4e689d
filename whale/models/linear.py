"""A linear layer that is fast on every CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends import mkldnn

ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if mkldnn.is_available() else None
"""The kernel that torch.compile takes for a linear layer, where this build of PyTorch has it: it has no public name."""

FEWEST = 4
"""Vectors that are multiplied together at least. MKL sums 1 to 3 in other orders than more, oneDNN a single one."""


class Linear(nn.Linear):
    """`nn.Linear`, in float32 on a CPU by oneDNN's kernel where no gradient is wanted and PyTorch has that kernel.

    PyTorch takes MKL's, which on AMD processors leaves half the width of the vector units idle: on a Zen 5, oneDNN's is
    2.2 times as fast. Precision is the same, the order of the sums is not. Few vectors would be multiplied in yet
    another order: they are repeated, so that a vector gives the same bits whatever stands beside it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight, bias = self.weight, self.bias
        is_plain = x.is_cpu and x.dtype == weight.dtype == torch.float32
        if torch.is_grad_enabled() or ONEDNN is None or not is_plain or torch.is_autocast_enabled("cpu"):
            return F.linear(x, weight, bias)
        num = x.numel() // x.shape[-1]
        if num == 0 or num >= FEWEST:
            out: Tensor = ONEDNN(x, weight, bias, "none", [], "")
            return out
        few: Tensor = ONEDNN(x.reshape(num, -1).repeat(FEWEST, 1), weight, bias, "none", [], "")
        return few[:num].view(*x.shape[:-1], -1)
