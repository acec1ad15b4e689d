"""Which checkpoints a run has: found by name and `COMPLETE`, without reading any (and without torch)."""

from dataclasses import dataclass
from pathlib import Path

COMPLETE = "COMPLETE"


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint."""

    folder: Path
    step: int


def checkpoint_of(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step under `checkpoints/`, by name: a shared disk need not show it yet."""
    return Checkpoint(folder / f"step_{step:07d}", step)


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """Complete checkpoints under `checkpoints/`, oldest first."""
    steps = {path.parent: path.parent.name.removeprefix("step_") for path in folder.glob(f"step_[0-9]*/{COMPLETE}")}
    found = [Checkpoint(path, int(step)) for path, step in steps.items() if step.isdecimal()]
    return sorted(found, key=lambda checkpoint: checkpoint.step)
