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

from whale.checkpoint import HostCopies, load_plain, plain_state, read_average, write_average, write_plain
from whale.compiling import compile_blocks, stacks, uncompiled
from whale.config import configclass
from whale.ema import WeightAverage, averaged
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
    recompute: bool = False
    """Compute the activations inside transformer blocks again in the backward pass: a third more work, less memory."""
    compile: bool = False
    """Compile transformer blocks for training (torch.compile); losses then differ by rounding."""
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
        """A batch on this process's device; its `position`, which noise is drawn by, stays where it is."""

    def accumulate(self, last: bool, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and figures of one micro-batch, whose gradient is added.

        After the `last` of an update, the gradient is the mean over micro-batches and ranks.
        """

    def step(self, rate: float) -> float:
        """Clip, update at `rate` times the peak learning rate, clear; returns the gradient norm before clipping.

        If that is not finite, on every rank, nothing was updated.
        """

    def validate(self) -> dict[str, float]:
        """The objective's validation, in evaluation mode, with the averaged weights where there is an average."""

    def snapshot(self, folder: Path) -> Callable[[], list[Path]]:
        """Copy the state, so that training can go on.

        What is returned writes this rank's share of it into `folder` and says which files it wrote; it may run in
        another thread, and has to end before the next snapshot.
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
    for stack in stacks(objective):
        stack.recompute = config.recompute
    if config.compile:
        compile_blocks(objective, device_of(config))
    if config.zero is None:
        return PlainEngine(config, objective, model, optim, accumulation, here)
    from whale.zero import ZeroEngine

    return ZeroEngine(config, objective, model, optim, accumulation, batch, here)


def device_of(config: EngineConfig) -> torch.device:
    """Where this process trains."""
    return torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")


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

        # Buffers change in the same way on every rank (a codebook), so none is sent.
        parallel = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        if here.world_size == 1:
            os.environ.pop("LOCAL_RANK", None)  # it would open a process group of one
        precision = "bf16" if config.precision == "bf16" else "no"
        cpu = device_of(config).type == "cpu"
        self._accelerator = Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[parallel])
        self.accumulation, self._here = accumulation, here
        self.layout: dict[str, Any] = {"zero": None}
        self.rendered: dict[str, Any] | None = None
        self._objective, self._model, self._compiled = objective, model, config.compile
        self._optimizers, self._grad_clip = build_optimizers(model, optim), optim.grad_clip
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # from torch 2.13 on
            self._forward = self._accelerator.prepare_model(objective)
        live = averaged(model).values()
        self._average = None if optim.ema_decay is None else WeightAverage(list(live), optim.ema_decay)
        self._copies, self._norm, self._first = HostCopies(), torch.tensor(0.0), True

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Engine`."""
        return on_device(batch, self._accelerator.device)

    def accumulate(self, last: bool, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Engine`."""
        with contextlib.nullcontext() if last else self._accelerator.no_sync(self._forward):
            loss, figures = self._forward(*arguments)
            self._accelerator.backward(loss / self.accumulation)
        if last:  # already here, so that whoever reads the loss has waited for the norm too
            parameters = (p for one in self._optimizers for group in one.param_groups for p in group["params"])
            self._norm = self._accelerator.clip_grad_norm_(parameters, self._grad_clip)
        return loss.detach(), figures

    def step(self, rate: float) -> float:
        """See `Engine`."""
        norm = float(self._norm)
        if math.isfinite(norm):
            set_rate(self._optimizers, rate)
            for optimizer in self._optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if self._average:
                self._average.update()
            if self._here.is_main and self._first:
                weights, states = (part.values() for part in plain_state(self._model, self._optimizers))
                self._copies.reserve([*weights, *states, *(weights if self._average else ())])
            self._first = False
        return norm

    def validate(self) -> dict[str, float]:
        """See `Engine`."""
        with evaluating(self._objective, self._compiled), self._averaged(), self._accelerator.autocast():
            return self._objective.validate()  # type: ignore[operator, no-any-return]

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within, the model holds the averaged weights, where they are kept."""
        if self._average:
            self._average.swap()
        yield
        if self._average:
            self._average.swap()

    def snapshot(self, folder: Path) -> Callable[[], list[Path]]:
        """See `Engine`."""
        if not self._here.is_main:
            return list
        self._copies.begin()
        write, average = write_plain(folder, self._model, self._optimizers, self._copies), self._average
        weights = {}
        if average:
            with self._averaged():
                weights = {name: self._copies.copy(value) for name, value in self._model.state_dict().items()}
        self._copies.finish()
        updates = average.updates if average else 0
        return lambda: write() + (write_average(folder, weights, updates) if average else [])

    def load(self, folder: Path, saved: dict[str, Any]) -> None:
        """See `Engine`."""
        if saved["zero"] is not None:
            raise UserError(
                f"{folder} was made under ZeRO {saved['zero']}, and its optimiser state cannot be read without",
                f"go on with engine.zero={saved['zero']}",
            )
        load_plain(folder, self._model, self._optimizers)
        if self._average:
            weights, updates = read_average(folder)
            self._average.restore(updates)
            self._model.load_state_dict(weights)
            self._average.swap()


def on_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """See `Engine.to_device`."""
    return {
        name: value if name == "position" else value.to(device, non_blocking=True) for name, value in batch.items()
    }


@contextlib.contextmanager
def evaluating(module: nn.Module, compiled: bool) -> Iterator[None]:
    """Evaluation mode, without gradients; what is compiled runs as it is written."""
    module.eval()
    with torch.no_grad(), uncompiled(compiled):
        yield
    module.train()
