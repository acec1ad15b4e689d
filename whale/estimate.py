"""What a training run needs, from its configuration alone: parameters by part, and the memory of a process.

Models are built and run as fake tensors, which have shapes and no bytes, so a laptop answers for a cluster. Activations
are not a formula that could go out of date: one forward and backward of the objective itself is traced, and what is
alive at the peak is added up. What DeepSpeed holds was measured on two processes (tests/distributed/test_memory.py).
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whale.clips.batch import empty_batch
from whale.compiling import stacks
from whale.models import attention
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel
from whale.objectives.clip_noise import ClipNoise
from whale.optim import OptimConfig, build_optimizers

Zero = Literal[0, 1, 2, 3] | None
BUCKET = 500_000_000
"""Elements of the buffer in which DeepSpeed reduces gradients on a GPU: its default, whatever the model's size."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a process."""

    weights: float
    """Frozen ones and buffers included; under ZeRO 3 also the gathered ones, which it keeps while they are few."""
    gradients: float
    optimizer: float
    """Moments, fp32 copies of low-precision weights, and averaged weights."""
    buckets: float
    """DeepSpeed's buffer for reducing gradients, on a GPU."""
    activations: float
    """The most that one micro-batch holds beside all of the above."""

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(astuple(self)))


def nothing_allocated() -> contextlib.AbstractContextManager[Any]:
    """Within, tensors have shapes and no bytes; a model is built and estimated inside the same one."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def parameter_counts(model: WorldModel | VideoTokenizer) -> dict[str, int]:
    """Parameters of each part; a learned codebook counts as parameters of the tokenizer."""
    tokenizer = model if isinstance(model, VideoTokenizer) else model.tokenizer
    parts: dict[str, nn.Module] = {"tokenizer": tokenizer}
    if isinstance(model, WorldModel):
        parts |= {"behavior": model.behavior, "dynamics": model.dynamics}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    codebook = tokenizer.quantizer.state_dict().get("codebook_VC")
    counts["tokenizer"] += 0 if codebook is None else codebook.numel()
    return counts


def memory(
    model: nn.Module, optim: OptimConfig, zero: Zero, low_precision: bool, world_size: int, activations: float
) -> Memory:
    """Memory of one process while it trains.

    Args:
        model: what is trained; fake tensors will do.
        optim: AdamW holds two fp32 moments of a parameter, Muon one.
        zero: ZeRO stage, or null for accelerate (`whale.engine.EngineConfig`).
        low_precision: bf16: ZeRO 1 to 3 then hold bf16 weights beside the optimiser's own in fp32.
        world_size: processes that share.
        activations: of `peak_activations`.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    moments = 4.0 * sum(
        (1 if isinstance(optimizer, torch.optim.Muon) else 2) * parameter.numel()
        for optimizer in build_optimizers(model, optim)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    if not zero:
        return Memory(4.0 * every + buffers, 4.0 * trained, moments, 0.0, activations)
    width = 2 if low_precision else 4
    weights = width * every * (1 + 1 / world_size if zero == 3 else 1) + buffers
    gradients = 4.0 * trained / (world_size if zero > 1 else 1)
    if zero == 1 and low_precision:
        gradients += 2.0 * trained  # what comes in, beside the sums
    bucket = BUCKET * (4 if zero == 1 else width)
    return Memory(weights, gradients, (moments + 4.0 * trained) / world_size, bucket, activations)


def peak_activations(
    objective: nn.Module, clips: int, frames: int, frame_shape: tuple[int, ...],
    *, autocast: bool, low_precision_weights: bool, fused: bool, recompute: bool,
) -> int:  # fmt: skip
    """Bytes alive at the peak of one micro-batch's forward and backward, weights and gradients left out.

    Args:
        objective: made inside `nothing_allocated`, which is still open.
        clips: of the micro-batch.
        frames: of each clip.
        frame_shape: one dimension for tokens, three for pixels.
        autocast: bf16 matrix products.
        low_precision_weights: the weights are bf16 (ZeRO 1 to 3), so that no copies of them are cast.
        fused: attention in one kernel, as on a GPU, which keeps no scores.
        recompute: blocks are computed again in the backward pass.
    """
    for stack in stacks(objective):
        stack.recompute = recompute
    for parameter in objective.parameters():
        parameter.grad = None
        parameter.data = parameter.data.to(torch.bfloat16 if low_precision_weights else torch.float32)
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    with unset_fake_temporarily():
        noise = ClipNoise(0, 0, torch.arange(clips))
    batch = empty_batch(clips, frames, frame_shape)
    counts = objective.counts(batch)  # type: ignore[operator]
    with _attention_as_on_gpu(fused), _Live() as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss, _ = objective(batch, counts, noise)
        loss.backward()
    return live.peak


@contextlib.contextmanager
def _attention_as_on_gpu(fused: bool) -> Iterator[None]:
    """Fake tensors are of the CPU, for those of a GPU need CUDA; the kernels differ in what they keep."""
    usual: Callable[..., Tensor] = attention.attend
    if fused:
        attention.attend = attention.attend_fused
    try:
        yield
    finally:
        attention.attend = usual


class _Live(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still alive, and the most there were.

    What an operation is given and none has made was there before, and is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def _see(self, values: Any, made: bool) -> None:
        for storage in (leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)):
            key = storage._cdata
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes() if made else 0
                self.now += self._sizes[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # more than half of all, and no operation
            return func(*args)
        self._see((args, kwargs), made=False)
        if func is torch.ops.aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            out = args[0].clone()  # as if the mask were true throughout: fake tensors have no values to go by
        else:
            out = func(*args, **(kwargs or {}))
        self._see(out, made=True)
        return out
