"""Optimisers and learning-rate schedules.

Muon (Jordan et al., 2024) takes the matrices of transformer blocks, AdamW everything else: embeddings, positions,
norms, biases, heads, convolutions and small networks. Weights of linear layers and convolutions decay; norms, biases,
embeddings and positions do not.
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
    """`muon` optimises matrices of transformer blocks with Muon, the rest with AdamW; `adamw` everything with AdamW."""
    lr: float = 2e-3
    """Peak learning rate of AdamW."""
    muon_lr: float = 2e-2
    """Peak learning rate of Muon."""
    weight_decay: float = 0.01
    """Decoupled weight decay of linear layers and convolutions; biases, norms, embeddings and positions have none."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Moment decays of AdamW."""
    grad_clip: float = 1.0
    """Largest global gradient norm."""
    warmup_steps: int = 30
    """Steps of linear warm-up."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """After the warm-up, `wsd` stays at the peak and then falls linearly to zero; `cosine` falls to `floor` in half a
    wave."""
    decay_fraction: float = 0.4
    """Share of the steps at the end in which `wsd` falls."""
    floor: float = 0.1
    """Share of the peak rate at which `cosine` ends."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, which validation and export then use (0.999, say); null keeps none."""

    def __post_init__(self) -> None:
        """Check the shares."""
        for name in ("decay_fraction", "floor", "ema_decay"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f"{name} lies in 0..1")


def decaying(model: nn.Module) -> set[torch.Tensor]:
    """The parameters with weight decay."""
    layers = (nn.Linear, nn.Conv2d)
    return {module.weight for module in model.modules() if isinstance(module, layers)}


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """One or two optimisers that together own every trainable parameter exactly once."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decay = decaying(model)
    hidden = [p for n, p in named if config.name == "muon" and "blocks." in n and p.ndim == 2 and p in decay]
    taken = set(hidden)
    rest = [p for _, p in named if p not in taken]
    groups = [
        {"params": [p for p in rest if p in decay], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p not in decay], "weight_decay": 0.0},
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
    """Share of the peak rate at `step` (0-based): linear warm-up, then the schedule, which ends at `total_steps`."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.schedule == "cosine":
        passed = max(0, step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        return warmup * (config.floor + (1 - config.floor) * (1 + math.cos(math.pi * min(passed, 1.0))) / 2)
    decay_steps = max(1, math.ceil(total_steps * config.decay_fraction))
    return min(warmup, 1.0, (total_steps - step) / decay_steps)


def set_rate(optimizers: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Set every group to `share` of its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
