"""A linear layer that is fast on every CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends import mkldnn

FEWEST = 4
"""Vectors that are multiplied together at least. MKL sums 1 to 3 in other orders than more, oneDNN a single one."""


class Linear(nn.Linear):
    """`nn.Linear`, in float32 on a CPU by oneDNN's kernel where no gradient is wanted.

    PyTorch takes MKL's, which on AMD processors leaves half the width of the vector units idle: on a Zen 5, oneDNN's is
    2.2 times as fast. Precision is the same, the order of the sums is not. Few vectors would be multiplied in yet
    another order: they are repeated, so that a vector gives the same bits whatever stands beside it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        is_plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        if not is_plain or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not mkldnn.is_available():
            return F.linear(x, self.weight, self.bias)
        num = x.numel() // x.shape[-1]
        few = 0 < num < FEWEST
        given = x.reshape(num, -1).repeat(FEWEST, 1) if few else x
        # The kernel that torch.compile takes for a linear layer; there is no public name for it.
        out: Tensor = torch.ops.mkldnn._linear_pointwise(given, self.weight, self.bias, "none", [], "")
        return out[:num].reshape(*x.shape[:-1], -1) if few else out
