"""Optimisers and learning-rate schedules.

Muon (Jordan et al., 2024) takes the hidden matrices, AdamW everything else: embeddings, norms, biases, heads and
convolutions.
"""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from whale.config import configclass


@configclass
class OptimConfig:
    """The optimiser of a training run."""

    name: Literal["adamw", "muon"] = "muon"
    """`muon` optimises hidden matrices with Muon and the rest with AdamW; `adamw` everything with AdamW."""
    lr: float = 2e-3
    """Peak learning rate of AdamW."""
    muon_lr: float = 2e-2
    """Peak learning rate of Muon."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices; vectors have none."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Moment decays of AdamW."""
    grad_clip: float = 1.0
    """Largest global gradient norm."""
    warmup_steps: int = 30
    """Steps of linear warm-up."""
    decay_fraction: float = 0.4
    """Share of the steps at the end in which the rate falls linearly to zero (warm-up, stable, decay)."""


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and "blocks." in name


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """One or two optimisers that together own every trainable parameter exactly once."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    hidden = [p for n, p in named if config.name == "muon" and _is_hidden_matrix(n, p)]
    taken = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True)
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if hidden:
        optimizers.append(torch.optim.Muon(hidden, lr=config.muon_lr, weight_decay=config.weight_decay, momentum=0.95))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def schedule(step: int, total_steps: int, config: OptimConfig) -> float:
    """Share of the peak rate at `step` (0-based): linear warm-up, constant, linear decay to zero at `total_steps`."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    decay_steps = max(1, math.ceil(total_steps * config.decay_fraction))
    return min(warmup, 1.0, (total_steps - step) / decay_steps)


def set_rate(optimizers: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Set every group to `share` of its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
