"""The engine: what turns losses into updates, on whatever devices there are.

The loop knows the `Engine` protocol only. Two back ends fill it: accelerate, on one device or data-parallel over
several (here), and DeepSpeed's ZeRO (`whale/zero.py`).
"""

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from whale.checkpoint import load_plain, write_plain
from whale.config import configclass
from whale.errors import UserError
from whale.optim import OptimConfig, build_optimizers, set_rate
from whale.ranks import Ranks, is_joined


@configclass
class EngineConfig:
    """Devices, precision, and how a model is spread over processes."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` runs matrix products in bfloat16 under autocast; the optimiser keeps weights in fp32."""
    device: Literal["auto", "cpu"] = "auto"
    """`auto` takes a GPU where there is one."""
    zero: Literal[0, 1, 2, 3] | None = None
    """DeepSpeed ZeRO stage: what is split over the processes (1 optimiser state, 2 gradients too, 3 weights too); null
    uses accelerate, which repeats everything on each."""
    offload_optimizer: bool = False
    """Keep the optimiser's state in host memory (ZeRO 1 to 3)."""
    micro_batch: int | None = None
    """Clips that a process takes at a time, accumulating over its share of the batch; null takes all at once."""
    reshard: bool = False
    """Let a run go on with another number of processes or another ZeRO stage than its checkpoint was made with."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.offload_optimizer and self.zero in (None, 0):
            raise ValueError("offload_optimizer needs zero 1, 2 or 3")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError("micro_batch is at least 1")


class Engine(Protocol):
    """One process of a training run."""

    accumulation: int
    """Micro-batches an update."""
    layout: dict[str, Any]
    """How the state is spread over processes: what a checkpoint has in common with a run that goes on from it."""

    rendered: dict[str, Any] | None
    """The back end's own configuration, for the record."""

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on this process's device."""

    def accumulate(self, last: bool, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and figures of one micro-batch, whose gradient is added.

        After the `last` of an update, the gradient is the mean over micro-batches and ranks.
        """

    def step(self, rate: float) -> float:
        """Clip, update at `rate` times the peak learning rate, clear; returns the gradient norm before clipping.

        If that is not finite, on every rank, nothing was updated.
        """

    def validate(self) -> dict[str, float]:
        """The objective's validation, in evaluation mode."""

    def snapshot(self, folder: Path) -> Callable[[], list[Path]]:
        """Copy the state, so that training can go on.

        What is returned writes this rank's share of it into `folder` and says which files it wrote; it may run in
        another thread.
        """

    def load(self, folder: Path, saved: dict[str, Any]) -> None:
        """Restore the state that snapshots wrote, in the `layout` that they were `saved` in.

        Raises:
            UserError: it is another model's, or of a layout that cannot be read in this one.
        """


def open_engine(
    config: EngineConfig, objective: nn.Module, model: nn.Module, optim: OptimConfig, batch: int, here: Ranks
) -> Engine:
    """The back end that a configuration asks for.

    Args:
        config: devices, precision and back end.
        objective: its forward gives (loss, figures); it is moved to the device.
        model: the part of the objective that is trained and saved.
        optim: the optimiser.
        batch: global batch in clips.
        here: this process; the ranks have met.

    Raises:
        UserError: the batch does not divide, or the back end cannot do what is asked.
    """
    accumulation = _accumulation(config, batch, here.world_size)
    for value in objective.buffers():  # parameters are sent by the back ends
        if is_joined() and value.is_floating_point():
            torch.distributed.broadcast(value, 0)  # a codebook that was fitted on another kind of processor differs
    if config.zero is None:
        return PlainEngine(config, objective, model, optim, accumulation, here)
    from whale.zero import ZeroEngine

    return ZeroEngine(config, objective, model, optim, accumulation, batch, here)


def _accumulation(config: EngineConfig, batch: int, world_size: int) -> int:
    share = batch // world_size
    micro = config.micro_batch or share
    if share * world_size != batch or share % micro:
        raise UserError(
            f"a global batch of {batch} clips does not divide by {world_size} processes of {micro} clips at a time",
            f"choose a multiple of {world_size * micro} for the batch, or another engine.micro_batch",
        )
    return share // micro


class PlainEngine:
    """The accelerate back end: the whole state on every process, gradients averaged between them."""

    def __init__(
        self, config: EngineConfig, objective: nn.Module, model: nn.Module, optim: OptimConfig, accumulation: int,
        here: Ranks,
    ):  # fmt: skip
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        cpu = config.device == "cpu" or not torch.cuda.is_available()
        # Buffers change in the same way on every rank (a codebook), so none is sent.
        parallel = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        if here.world_size == 1:
            os.environ.pop("LOCAL_RANK", None)  # it would open a process group of one
        precision = "bf16" if config.precision == "bf16" else "no"
        self._accelerator = Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[parallel])
        self.accumulation, self._here = accumulation, here
        self.layout: dict[str, Any] = {"zero": None}
        self.rendered: dict[str, Any] | None = None
        self._objective, self._model = objective, model
        self._optimizers, self._grad_clip = build_optimizers(model, optim), optim.grad_clip
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # from torch 2.13 on
            self._forward = self._accelerator.prepare_model(objective)

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Engine`."""
        return {name: value.to(self._accelerator.device, non_blocking=True) for name, value in batch.items()}

    def accumulate(self, last: bool, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Engine`."""
        with contextlib.nullcontext() if last else self._accelerator.no_sync(self._forward):
            loss, figures = self._forward(*arguments)
            self._accelerator.backward(loss / self.accumulation)
        return loss.detach(), figures

    def step(self, rate: float) -> float:
        """See `Engine`."""
        parameters = [p for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]]
        norm = float(self._accelerator.clip_grad_norm_(parameters, self._grad_clip))
        if math.isfinite(norm):
            set_rate(self._optimizers, rate)
            for optimizer in self._optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return norm

    def validate(self) -> dict[str, float]:
        """See `Engine`."""
        with evaluating(self._objective):
            return self._objective.validate()  # type: ignore[operator, no-any-return]

    def snapshot(self, folder: Path) -> Callable[[], list[Path]]:
        """See `Engine`."""
        return write_plain(folder, self._model, self._optimizers) if self._here.is_main else list

    def load(self, folder: Path, saved: dict[str, Any]) -> None:
        """See `Engine`."""
        if saved["zero"] is not None:
            raise UserError(
                f"{folder} was made under ZeRO {saved['zero']}, and its optimiser state cannot be read without",
                f"go on with engine.zero={saved['zero']}",
            )
        load_plain(folder, self._model, self._optimizers)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients."""
    module.eval()
    with torch.no_grad():
        yield
    module.train()
