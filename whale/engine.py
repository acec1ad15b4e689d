"""The engine: what turns a loss into an update, on whatever devices there are.

The loop knows this interface only. The back end is accelerate, on one device: a CPU or a GPU.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from whale.config import configclass
from whale.errors import UserError
from whale.optim import set_rate


@configclass
class EngineConfig:
    """Devices and precision."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` runs matrix products in bfloat16 under autocast; weights stay in fp32."""
    device: Literal["auto", "cpu"] = "auto"
    """`auto` takes a GPU where there is one."""


class Engine:
    """One training process.

    Args:
        config: devices and precision.
        objective: a module whose forward gives (loss, figures, ...); it is moved to the device.
        optimizers: the optimisers of the objective's parameters.
        grad_clip: largest global gradient norm.
    """

    def __init__(
        self, config: EngineConfig, objective: nn.Module, optimizers: list[torch.optim.Optimizer], grad_clip: float
    ):
        from accelerate import Accelerator

        cpu = config.device == "cpu" or not torch.cuda.is_available()
        self._accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if config.precision == "bf16" else "no")
        if self._accelerator.num_processes > 1:
            raise UserError(
                f"training was started in {self._accelerator.num_processes} processes; it runs on one device for now",
                "start it without torchrun or srun",
            )
        self.objective = self._accelerator.prepare_model(objective)  # runs forward under autocast
        self.optimizers = optimizers
        self.grad_clip = grad_clip

    @property
    def rank(self) -> int:
        """Index of this process."""
        return self._accelerator.process_index

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on this process's device."""
        return {name: value.to(self._accelerator.device, non_blocking=True) for name, value in batch.items()}

    def forward(self, *arguments: Any) -> Any:
        """The objective under the configured precision."""
        return self.objective(*arguments)

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients."""
        self._accelerator.backward(loss)

    def step(self, rate: float, where: str) -> float:
        """Clip, update at `rate` times the peak learning rate, clear; returns the gradient norm before clipping.

        Raises:
            UserError: the gradient is not finite; nothing was updated. `where` names the step and its samples.
        """
        parameters = [p for group in self._groups() for p in group["params"]]
        norm = float(self._accelerator.clip_grad_norm_(parameters, self.grad_clip))
        if not math.isfinite(norm):
            raise UserError(
                f"the gradient norm is {norm} at {where}; the update was not made",
                "look at these samples, lower the learning rate, or go on from the last checkpoint with another seed",
            )
        set_rate(self.optimizers, rate)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]
