"""Checkpoints of a training run: `checkpoints/step_0001000/`, published whole, with `COMPLETE` written last.

It holds `model.safetensors` (all weights in fp32, whatever made it), `state.json`, and what the engine needs to go on
exactly: `optimizer.safetensors`, or under ZeRO a folder of DeepSpeed's with a file of each rank. Where a run averages
its weights, `model_ema.safetensors` is the average of the same tensors. `COMPLETE` holds the sha256 of the other files,
so that a damaged checkpoint is found before it is used. `whale/saver.py` writes them.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from whale.checkpoint_folder import COMPLETE, Checkpoint, checkpoint_of, find_checkpoints
from whale.errors import UserError
from whale.progress import say

WEIGHTS, AVERAGE = "model.safetensors", "model_ema.safetensors"
STATE_VERSION = 2
"""Of what a run goes on from; raised when parameters, random draws or the order of optimiser states change."""


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class HostCopies:
    """Copies of tensors in host memory that is used again for each snapshot, since new pages cost more than the copy.

    The memory is pinned for tensors on a GPU. A snapshot copies the same tensors in the same order as the one before.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._count = 0
        self._reserving: threading.Thread | None = None

    def reserve(self, values: Iterable[Tensor]) -> None:
        """Make memory for the first snapshot, of these tensors, in another thread."""
        kinds = [(value.shape, value.dtype, value.is_cuda) for value in values]

        def make() -> None:
            self._buffers = [torch.empty(shape, dtype=dtype, pin_memory=pin).zero_() for shape, dtype, pin in kinds]

        self._reserving = threading.Thread(target=make)
        self._reserving.start()

    def begin(self) -> None:
        """A new snapshot: the copies of the last may be overwritten."""
        if self._reserving is not None:
            self._reserving.join()
        self._count = 0

    def copy(self, value: Tensor) -> Tensor:
        """A copy that later updates do not reach; it is complete after `finish`."""
        found = self._buffers[self._count : self._count + 1]
        if not found or (found[0].shape, found[0].dtype) != (value.shape, value.dtype):
            found = [torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)]
            self._buffers[self._count : self._count + 1] = found
        self._count += 1
        return found[0].copy_(value.detach(), non_blocking=True)

    def finish(self) -> None:
        """Wait for the copies."""
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"{i}.{j}.{name}": torch.as_tensor(value)
        for i, optimizer in enumerate(optimizers)
        for j, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def _load_optimizers(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    for i, optimizer in enumerate(optimizers):
        state_dict = optimizer.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, parameter, name = key.split(".", 2)
            if int(owner) == i:
                state.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({**state_dict, "state": state})


def write_weights(folder: Path, weights: dict[str, Tensor]) -> list[Path]:
    """Write `model.safetensors`: what every checkpoint holds, whatever made it."""
    save_file(weights, folder / WEIGHTS)
    return [folder / WEIGHTS]


def write_average(folder: Path, weights: dict[str, Tensor], updates: int) -> list[Path]:
    """Write `model_ema.safetensors`: the average of the weights, and over how many updates it is."""
    save_file(weights, folder / AVERAGE, {"updates": str(updates)})
    return [folder / AVERAGE]


def read_average(folder: Path) -> tuple[dict[str, Tensor], int]:
    """What `write_average` wrote."""
    with safe_open(folder / AVERAGE, "pt") as file:
        return load_file(folder / AVERAGE), int(file.metadata()["updates"])


def trained_weights(folder: Path) -> Path:
    """The file of a checkpoint that is exported: the average of the weights where the run keeps one."""
    return folder / AVERAGE if (folder / AVERAGE).is_file() else folder / WEIGHTS


def plain_state(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[dict[str, Tensor], ...]:
    """Weights and optimiser state that lie whole on this process, as they are."""
    return model.state_dict(), _optimizer_tensors(optimizers)


def write_plain(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], copies: HostCopies
) -> Callable[[], list[Path]]:
    """Copy the plain state; the function that is returned writes it."""
    weights, tensors = (
        {name: copies.copy(value) for name, value in part.items()} for part in plain_state(model, optimizers)
    )

    def write() -> list[Path]:
        save_file(tensors, folder / "optimizer.safetensors")
        return [*write_weights(folder, weights), folder / "optimizer.safetensors"]

    return write


def load_plain(folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Restore model and optimisers in place.

    Raises:
        UserError: the weights do not fit the model.
    """
    load_weights(model, load_file(folder / WEIGHTS), str(folder))
    _load_optimizers(optimizers, load_file(folder / "optimizer.safetensors"))


def damage(checkpoint: Checkpoint) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        hashes = json.loads((checkpoint.folder / COMPLETE).read_text())
    except ValueError:  # no JSON, or no UTF-8
        hashes = None
    if not isinstance(hashes, dict):
        return f"{checkpoint.folder / COMPLETE} does not list the sha256 of the other files"
    for name, expected in hashes.items():
        path = checkpoint.folder / name
        if not path.is_file():
            return f"{path} is missing"
        if sha256_file(path) != expected:
            return f"{path} does not have the sha256 that {COMPLETE} states"
    return None


def newest_sound(run: Path) -> Checkpoint | None:
    """The checkpoint that a run goes on from; damaged ones are named and passed over."""
    for checkpoint in reversed(find_checkpoints(run / "checkpoints")):
        fault = damage(checkpoint)
        if not fault:
            return checkpoint
        say(f"passing over {checkpoint.folder}: {fault}")
    return None


def read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """The content of `state.json`: `step`, the `order` of the data, the `layout` of the engine and the `version`.

    Raises:
        UserError: code that drew other random numbers saved it.
    """
    state: dict[str, Any] = json.loads((checkpoint.folder / "state.json").read_text())
    if state.get("version") != STATE_VERSION:
        raise UserError(
            f"{checkpoint.folder} was saved by an earlier version, whose runs this one cannot go on with",
            "end the run with the version that began it, or choose another run folder",
        )
    return state


def load_weights_of(run: Path, step: int, model: nn.Module) -> None:
    """Copy the weights of a run's checkpoint into a fresh model.

    After training, the model that was trained may hold none (ZeRO 3) or rounded ones (bf16). Where the run averages its
    weights, it is the average.
    """
    path = trained_weights(checkpoint_of(run / "checkpoints", step).folder)
    load_weights(model, load_file(path), str(path))


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy tensors into a model, strictly.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape; all of them are named.
    """
    refuse_other_shapes(
        {name: tuple(value.shape) for name, value in model.state_dict().items()},
        {name: tuple(value.shape) for name, value in tensors.items()},
        source,
    )
    model.load_state_dict(tensors)


def refuse_other_shapes(own: dict[str, tuple[int, ...]], given: dict[str, tuple[int, ...]], source: str) -> None:
    """Compare the shapes of a model's tensors with those in a file; see `load_weights` for the error."""
    wrong = [
        f"{name}: model {own.get(name)}, file {given.get(name)}"
        for name in sorted(own.keys() | given.keys())
        if own.get(name) != given.get(name)
    ]
    if wrong:
        listed = "\n  - ".join(wrong[:8]) + (f"\n  ... and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise UserError(
            f"the weights in {source} do not fit the model:\n  - {listed}",
            "use the configuration they were trained with, or another run folder",
        )


def prune(folder: Path, step: int, keep: int, milestones: tuple[int, ...]) -> threading.Thread:
    """Delete all but the newest `keep` checkpoints and the milestones, in a thread: gigabytes take a second or more.

    Checkpoints beyond `step` do not count: the run has passed over them as damaged, and will replace them.
    """
    doomed = []
    for checkpoint in [c for c in find_checkpoints(folder) if c.step <= step][:-keep]:
        if checkpoint.step not in milestones:
            doomed.append(checkpoint.folder.with_name(f".tmp-{checkpoint.folder.name}-pruned"))
            checkpoint.folder.rename(doomed[-1])  # gone at once: half of it would look like a damaged one

    def remove() -> None:
        for path in doomed:
            shutil.rmtree(path, ignore_errors=True)

    removing = threading.Thread(target=remove)
    removing.start()
    return removing
