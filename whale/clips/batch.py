"""One batch of windows, read and put together in one block of memory, so that a worker sends it in one piece."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from whale.actions import ACTION_DIM, ActionScale
from whale.clips.merging import Merging
from whale.clips.mixture import Mixture
from whale.clips.reader import ClipReader
from whale.clips.window import Windows, fill_masks
from whale.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_ALIGN = 64


class _Field(NamedTuple):
    """One array of a batch."""

    dtype: str
    """The name, which NumPy and torch share."""
    shape: tuple[int, ...]
    place: slice
    """Its bytes in the block."""


def _fields(size: int, frames: int, frame_shape: tuple[int, ...]) -> dict[str, _Field]:
    """The arrays of a batch of `size` clips, one behind the other."""
    steps, tokens = (size, frames), len(frame_shape) == 1
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "tokens" if tokens else "frames": ("uint16" if tokens else "uint8", (*steps, *frame_shape)),
        "actions": ("float32", (*steps, ACTION_DIM)), "action_mask": ("bool", (*steps, ACTION_DIM)),
        "action_status": ("int64", (size, ACTION_DIM)), "rewards": ("float32", steps),
        "control_period_sec": ("float32", (size,)),
    }  # fmt: skip
    wanted |= dict.fromkeys(("reward_mask", "terminated", "terminated_mask", "valid", "merged"), ("bool", steps))
    wanted |= dict.fromkeys(("action_type", "embodiment", "position"), ("int64", (size,)))
    fields, end = {}, 0
    for name, (dtype, shape) in wanted.items():
        start = end + -end % _ALIGN
        end = start + math.prod(shape) * np.dtype(dtype).itemsize
        fields[name] = _Field(dtype, shape, slice(start, end))
    return fields


def _widen(tokens: "Tensor", pinned: bool) -> "Tensor":
    """uint16 to int64, in pinned memory or not. One thread copies: several would fight with the workers."""
    import torch

    if pinned:
        wide = torch.empty(tokens.shape, dtype=torch.int64, pin_memory=True)
    else:  # of NumPy, for of torch's aligned blocks the heap keeps hundreds of MB; a map of its own is half as fast
        wide = torch.from_numpy(np.empty(tokens.shape, np.int64))
    wide.numpy()[:] = tokens.numpy()
    return wide


def empty_batch(size: int, frames: int, frame_shape: tuple[int, ...]) -> "dict[str, Any]":
    """A batch as `BatchReader.unpack` gives it, of zeros; tokens where `frame_shape` has one dimension."""
    import torch

    fields = _fields(size, frames, frame_shape).items()
    batch = {name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, (dtype, shape, _) in fields}
    return {name: value.long() if name == "tokens" else value for name, value in batch.items()}


class BatchReader:
    """Batches of `size` clips by their positions; sent to the workers.

    `axes` are those in which each reader's actions are merged; None where they are not.

    A UserError is returned, not raised: the DataLoader would raise a RuntimeError with a traceback in its place.
    """

    def __init__(
        self, readers: list[ClipReader], mixture: Mixture, scales: dict[str, ActionScale], size: int, frames: int,
        frame_shape: tuple[int, ...], merging: Merging, axes: list[str | None],
    ):
        self.readers, self.mixture, self.frames = readers, mixture, frames
        self._merging, self._axes = merging, axes
        datasets = [reader.manifest.dataset for reader in readers]
        self._scales = [scales[name] for name in datasets]
        self._embodiments = np.array([list(scales).index(name) for name in datasets])
        self._fields = _fields(size, frames, frame_shape)

    def __getitem__(self, positions: range) -> "Tensor | UserError":
        """The batch at these positions, as one block of bytes for `unpack`."""
        import torch

        memory = np.empty(max(field.place.stop for field in self._fields.values()), np.uint8)
        fields = self._fields.items()
        arrays = {name: memory[place].view(dtype).reshape(shape) for name, (dtype, shape, place) in fields}
        try:
            self._fill(np.arange(positions.start, positions.stop), arrays)
        except UserError as error:
            return error
        return torch.from_numpy(memory)

    def _fill(self, positions: np.ndarray, out: dict[str, np.ndarray]) -> None:
        sources, ks = self.mixture.at(positions)
        num_frames = np.empty(len(ks), np.int64)
        slots = {source: np.flatnonzero(sources == source) for source in np.unique(sources).tolist()}
        for source, here in slots.items():
            num_frames[here] = self.readers[source].num_frames[ks[here]]
        starts = self.mixture.offset(positions, np.maximum(1, num_frames - self.frames + 1))
        windows = Windows.zeros(starts, self.frames, out["tokens"] if "tokens" in out else out["frames"])
        scaled = windows.actions
        for source, here in slots.items():
            rest = self._merge(windows, source, here, ks, positions) if self._axes[source] else here
            self.readers[source].fill(windows, rest, ks[rest])
            scaled[here] = self._scales[source].scale(windows.actions[here])
        fill_masks(windows, out)
        out["actions"][:] = np.where(out["action_mask"], scaled, np.float32(0.0))
        out["embodiment"][:], out["position"][:] = self._embodiments[sources], positions

    def _merge(
        self, windows: Windows, source: int, here: np.ndarray, ks: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """Fill those of the slots `here` in which actions are merged; returns the others."""
        chosen, axes = self._merging.chosen(positions[here]), self._axes[source]
        if axes and len(those := here[chosen]):
            self._merging.fill(windows, self.readers[source], axes, those, ks[those], positions[those])
        return here[~chosen]

    def unpack(self, block: "Tensor | UserError") -> "dict[str, Any]":
        """The batch in a block as torch tensors, which share its memory; tokens are widened to int64.

        All are in pinned memory where there is CUDA, also where no worker's block was pinned on its way.

        Raises:
            UserError: a clip of the batch is damaged.
        """
        import torch

        if isinstance(block, UserError):
            raise block
        pinned = torch.cuda.is_available()
        if pinned and not block.is_pinned():
            block = block.pin_memory()
        batch = {name: block[place].view(getattr(torch, dtype)).view(shape)
                 for name, (dtype, shape, place) in self._fields.items()}  # fmt: skip
        if "tokens" in batch:
            batch["tokens"] = _widen(batch["tokens"], pinned)
        return batch
