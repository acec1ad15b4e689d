"""The only training loop."""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from whale.checkpoint import damage, find_checkpoints, load_checkpoint, prune, save_checkpoint
from whale.clips.loader import ClipLoader
from whale.config import configclass, dump_config, load_config, to_values
from whale.engine import Engine, EngineConfig
from whale.errors import UserError
from whale.optim import OptimConfig, build_optimizers, schedule
from whale.progress import Progress, say
from whale.publish import publish_file, write_json
from whale.runtime import environment
from whale.tracker import Tracker, TrackerConfig


@configclass
class LoopConfig:
    """How long to train, and what to keep."""

    steps: int
    """Updates in all."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    validate_every: int = 100
    """Steps between two validations; the last step always validates."""
    save_every: int = 100
    """Steps between two checkpoints; the last step always saves."""
    keep: int = 2
    """Newest checkpoints to keep."""
    milestones: tuple[int, ...] = ()
    """Steps whose checkpoints are saved and kept for good."""
    seed: int = 0
    """Seed of the initial weights and of all noise in training."""

    def __post_init__(self) -> None:
        """Check that everything happens at least once."""
        for name in ("steps", "log_every", "validate_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1")


class Objective(Protocol):
    """What is trained: a module whose forward gives the loss, and the model inside it."""

    @property
    def model(self) -> nn.Module:
        """What is trained, saved and exported."""

    def __call__(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch and figures to log."""

    def after_step(self, generator: torch.Generator) -> dict[str, float]:
        """Updates that are not made by gradient (a codebook), and their figures."""

    def validate(self) -> dict[str, float]:
        """Figures on held-out clips."""

    def train(self, mode: bool = True) -> Any:
        """Turn training mode on or off (of torch.nn.Module)."""


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """All randomness of one step on one rank, a pure function of its arguments: a checkpoint need not hold any."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def fit(
    objective: Objective,
    loader: ClipLoader,
    folder: Path,
    config: LoopConfig,
    optim: OptimConfig,
    engine_config: EngineConfig,
    tracker_config: TrackerConfig,
    run_config: Any,
) -> dict[str, float]:
    """Train until `config.steps`, going on from the newest sound checkpoint in `folder`; returns the last validation.

    Raises:
        UserError: the folder belongs to another configuration, or a loss or gradient is not finite.
    """
    claim(folder, run_config)
    optimizers = build_optimizers(objective.model, optim)
    engine = Engine(engine_config, cast(nn.Module, objective), optimizers, optim.grad_clip)
    step, position = _resume(folder, objective.model, optimizers, loader)
    progress, figures, note = Progress(folder.name, config.steps, "steps", done=step), {}, ""
    batches, meter = loader.batches(position), _Meter(loader)
    with closing(Tracker(tracker_config, folder, to_values(run_config), resumed_step=step or None)) as tracker:
        while step < config.steps:
            batch = engine.to_device(meter.time_data(batches))
            where = f"step {step + 1}, samples {batch['position'].tolist()}"
            generator = step_generator(config.seed, step, engine.rank)
            loss, terms = engine.forward(batch, generator)
            _require_finite(loss, where)
            engine.backward(loss)
            norm = engine.step(schedule(step, config.steps, optim), where)
            extra = objective.after_step(generator)
            step, position, last = step + 1, position + loader.config.batch, step + 1 == config.steps

            if step % config.log_every == 0 or last:
                values = {"loss": loss.item(), "grad_norm": norm, **{k: v.item() for k, v in terms.items()}, **extra}
                tracker.log(step, {**values, **meter.read()})
                note = f"loss {values['loss']:.3f}"
            if step % config.validate_every == 0 or last:
                figures = _validate(objective)
                tracker.log(step, {f"val/{name}": value for name, value in figures.items()})
                meter.restart()
            if step % config.save_every == 0 or step in config.milestones or last:
                save_checkpoint(folder / "checkpoints", step, objective.model, optimizers, loader.state(position))
                prune(folder / "checkpoints", step, config.keep, config.milestones)
                meter.restart()
            progress.advance(note=note)

    progress.close(note=", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    return figures or _validate(objective)


MAY_CHANGE = (
    ".workers", "engine.device", "loop.log_every", "loop.validate_every", "loop.save_every", "loop.keep",
    "loop.milestones", "tracker.wandb", "tracker.project", "validation_batches", "validation_clips",
)  # fmt: skip
"""Ends of keys that change nothing in what is learned; all others stay as they were when a run is resumed."""


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def claim(folder: Path, run_config: Any) -> None:
    """Write `config.yaml` and `environment.json`; a folder of another configuration is refused."""
    path = folder / "config.yaml"
    if path.is_file():
        before, now = _flat(to_values(load_config(type(run_config), [path]))), _flat(to_values(run_config))
        changed = [
            f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not key.endswith(MAY_CHANGE)
        ]
        if changed:
            raise UserError(
                f"{folder} is a run of another configuration:\n  - " + "\n  - ".join(changed[:8]),
                "go on with the configuration in its config.yaml, or choose another run folder",
            )
    with publish_file(path) as temporary:
        temporary.write_text(dump_config(run_config))
    write_json(folder / "environment.json", environment())


def _resume(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], loader: ClipLoader
) -> tuple[int, int]:
    """Step and global data position to go on from; damaged checkpoints are named and passed over."""
    for checkpoint in reversed(find_checkpoints(folder / "checkpoints")):
        fault = damage(checkpoint)
        if fault:
            say(f"passing over {checkpoint.folder}: {fault}")
            continue
        position = loader.resume_position(load_checkpoint(checkpoint, model, optimizers))
        say(f"going on from {checkpoint.folder}")
        return checkpoint.step, position
    return 0, 0


def _require_finite(loss: Tensor, where: str) -> None:
    if not math.isfinite(loss.item()):
        raise UserError(
            f"the loss is {loss.item()} at {where}; the update was not made",
            "look at these samples, lower the learning rate, or go on from the last checkpoint with another seed",
        )


def _validate(objective: Objective) -> dict[str, float]:
    objective.train(False)
    with torch.no_grad():
        figures = objective.validate()
    objective.train()
    return figures


class _Meter:
    """Throughput since the last reading: frames/s over all ranks, and the share of time spent waiting for data."""

    def __init__(self, loader: ClipLoader):
        self._frames_per_step = loader.config.batch * loader.config.frames
        self.restart()

    def restart(self) -> None:
        """Forget what went before (a validation is not training)."""
        self._start, self._steps, self._wait_sec = time.monotonic(), 0, 0.0

    def time_data(self, batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The next batch, its waiting time counted."""
        start = time.monotonic()
        batch = next(batches)
        self._wait_sec += time.monotonic() - start
        self._steps += 1
        return batch

    def read(self) -> dict[str, float]:
        """Figures since the last reading."""
        passed = max(time.monotonic() - self._start, 1e-9)
        figures = {"frames_per_sec": self._steps * self._frames_per_step / passed, "data_wait": self._wait_sec / passed}
        self.restart()
        return figures
