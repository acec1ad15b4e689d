"""Checkpoints of a training run: `checkpoints/step_0001000/`, published whole, with `COMPLETE` written last.

Everything is safetensors and JSON; nothing is ever unpickled. `COMPLETE` holds the sha256 of the other files, so that a
damaged checkpoint is found before it is used.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from whale.clips.loader import OrderState
from whale.errors import UserError
from whale.publish import publish_folder

COMPLETE = "COMPLETE"


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint."""

    folder: Path
    step: int


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    tensors = {}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"{i}.{j}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _load_optimizers(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    for i, optimizer in enumerate(optimizers):
        state_dict = optimizer.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, parameter, name = key.split(".", 2)
            if int(owner) == i:
                state.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({**state_dict, "state": state})


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], order: OrderState
) -> Checkpoint:
    """Publish the state after `step` updates under `folder`/step_NNNNNNN."""
    path = folder / f"step_{step:07d}"
    with publish_folder(path) as temporary:
        weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(weights, temporary / "model.safetensors")
        save_file(_optimizer_tensors(optimizers), temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps({"step": step, "order": asdict(order)}, sort_keys=True))
        hashes = {file.name: sha256_file(file) for file in sorted(temporary.iterdir())}
        (temporary / COMPLETE).write_text(json.dumps(hashes, indent=1, sort_keys=True))
    return Checkpoint(path, step)


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """Complete checkpoints, oldest first."""
    steps = {path.parent: path.parent.name.removeprefix("step_") for path in folder.glob(f"step_[0-9]*/{COMPLETE}")}
    found = [Checkpoint(path, int(step)) for path, step in steps.items() if step.isdecimal()]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


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


def load_checkpoint(checkpoint: Checkpoint, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> OrderState:
    """Restore model and optimisers in place; returns where the data stood.

    Raises:
        UserError: the weights do not fit the model.
    """
    load_weights(model, load_file(checkpoint.folder / "model.safetensors"), str(checkpoint.folder))
    _load_optimizers(optimizers, load_file(checkpoint.folder / "optimizer.safetensors"))
    state: dict[str, Any] = json.loads((checkpoint.folder / "state.json").read_text())
    return OrderState(**state["order"])


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy tensors into a model, strictly.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape; all of them are named.
    """
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
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
    model.load_state_dict(tensors)


def prune(folder: Path, step: int, keep: int, milestones: tuple[int, ...]) -> None:
    """Delete all but the newest `keep` checkpoints and the milestones.

    Checkpoints beyond `step` do not count: the run has passed over them as damaged, and will replace them.
    """
    for checkpoint in [c for c in find_checkpoints(folder) if c.step <= step][:-keep]:
        if checkpoint.step not in milestones:
            shutil.rmtree(checkpoint.folder)
