"""The only training loop."""

import math
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from whale.checkpoint import STATE_VERSION, newest_sound, read_state
from whale.checkpoint_folder import checkpoint_of
from whale.clips.loader import ClipLoader, OrderState
from whale.config import configclass, dump_config, load_config, to_values
from whale.engine import Engine, EngineConfig, open_engine
from whale.errors import StoppedError, UserError
from whale.objectives.clip_noise import ClipNoise, seeded_generator
from whale.objectives.masked import Counts
from whale.optim import OptimConfig, schedule
from whale.progress import say
from whale.publish import publish_file, write_json
from whale.ranks import Ranks, broadcast, total, total_of
from whale.run_folder import occupy
from whale.run_log import RunLog
from whale.runtime import environment
from whale.saver import Saver
from whale.tracker import TrackerConfig


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

    @property
    def tokens_per_frame(self) -> int:
        """Tokens that a frame counts for in the throughput."""

    def flops_per_frame(self, frames: int) -> float:
        """Floating-point operations of forward and backward, per frame of a clip of `frames`."""

    def counts(self, batch: dict[str, Tensor]) -> Counts:
        """What the means in the loss are divided by: how many entries of this batch each is over."""

    def __call__(
        self, batch: dict[str, Tensor], counts: Counts, noise: ClipNoise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch and figures to log.

        Over parts of a batch that get an equal share of its counts each, the mean is the loss of the batch.
        """

    def after_step(self, generator: torch.Generator) -> dict[str, float]:
        """Updates that are not made by gradient (a codebook), and their figures; the same on every rank."""

    def validate(self) -> dict[str, float]:
        """Figures on held-out clips."""

    def verdict(self, step: int, figures: dict[str, float]) -> UserError | None:
        """Why a run whose validation gave these figures must not go on."""

    def videos(self) -> dict[str, np.ndarray]:
        """What the last validation has to show, by name: uint8 [T, H, W, 3]."""


@dataclass(frozen=True)
class Run:
    """One training run: where it lives, and how it is trained."""

    task: str
    """Words of the command, as `pretrain dynamics`."""
    folder: Path
    loop: LoopConfig
    optim: OptimConfig
    engine: EngineConfig
    tracker: TrackerConfig
    config: Any
    """The whole resolved configuration."""


def fit(objective: Objective, loader: ClipLoader, here: Ranks, run: Run) -> dict[str, float]:
    """Train until `loop.steps`, going on from the newest sound checkpoint; returns the last validation.

    Called by all ranks. The trained weights are those of the newest checkpoint: under ZeRO, no process may hold them.

    Raises:
        UserError: the folder is in use or belongs to another configuration, or a loss or gradient is not finite.
        StoppedError: SIGTERM or SIGUSR1 came to a rank; everything is saved.
    """
    with occupy(run.folder, run.task, run.loop.steps, here.world_size) if here.is_main else nullcontext() as held:
        claim(run.folder, run.config, here)
        config, folder = run.loop, run.folder
        engine = open_engine(
            run.engine, cast(nn.Module, objective), objective.model, run.optim, loader.config.batch, here
        )
        if engine.rendered and here.is_main:
            write_json(folder / "deepspeed.json", engine.rendered)
        saver = Saver(folder / "checkpoints", here, config.keep, config.milestones)
        step, position = _resume(folder, engine, loader, here)
        log = RunLog(run, objective, here, held, step, loader)
        batches, figures, refusal = loader.batches(position), {}, None
        with closing(log):
            while step < config.steps:
                batch = engine.to_device(log.time_data(batches))
                loss, terms = _accumulate(engine, objective, batch, here, config.seed, step)
                where = f"step {step + 1}, samples {position} to {position + loader.config.batch - 1}"
                loss, stop = _agree(loss, saver, here)
                if not math.isfinite(loss):
                    saver.finish()
                    raise _not_finite("loss", loss, where)
                norm = engine.step(schedule(step, config.steps, run.optim))
                if not math.isfinite(norm):
                    saver.finish()
                    raise _not_finite("gradient norm", norm, where)
                extra = objective.after_step(seeded_generator(config.seed, step))
                step, position, last = step + 1, position + loader.config.batch, step + 1 == config.steps

                if step % config.log_every == 0 or last:
                    means = _mean(dict(zip(terms, torch.stack([*terms.values()]).tolist(), strict=True)), here)
                    log.training(step, {"loss": loss, "grad_norm": norm, **means, **extra}, position)
                if step % config.validate_every == 0 or last:
                    figures = _mean(engine.validate(), here)
                    log.validation(step, figures)
                    refusal = objective.verdict(step, figures)
                if step % config.save_every == 0 or step in config.milestones or last or stop or refusal:
                    order = asdict(loader.state(position))
                    state = {"version": STATE_VERSION, "step": step, "order": order, "layout": engine.layout}
                    with log.stalled():
                        saver.start(step, state, engine.snapshot)
                if refusal:
                    saver.finish()
                    raise refusal
                if stop and not last:
                    saver.finish()
                    log.stopped(step, here.signals.name)
                    raise StoppedError(f"step {step} of {config.steps} is saved in {folder}")
                log.advance()
            saver.finish()
            figures = figures or _mean(engine.validate(), here)
            if refusal := objective.verdict(step, figures):  # of a run that had come to its end before
                raise refusal
            log.finished(step, figures)
    return figures


def _accumulate(
    engine: Engine, objective: Objective, batch: dict[str, Tensor], here: Ranks, seed: int, step: int
) -> tuple[float, dict[str, Tensor]]:
    """Add up the gradient of this rank's share of a batch; its loss and figures are means over the micro-batches.

    The loss is the one figure that is waited for.
    """
    parts = engine.accumulation
    counted = objective.counts(batch)
    shares = total(torch.stack(list(counted.values()))) / (here.world_size * parts)
    counts = dict(zip(counted, shares, strict=True))
    size = len(batch["position"]) // parts
    losses: list[Tensor] = []
    terms: list[dict[str, Tensor]] = []
    for i in range(parts):
        micro = {name: value[i * size : (i + 1) * size] for name, value in batch.items()}
        noise = ClipNoise(seed, step, micro["position"], shares.device)
        loss, figures = engine.accumulate(i == parts - 1, micro, counts, noise)
        losses.append(loss)
        terms.append(figures)
    means = torch.stack([torch.stack(list(one.values())) for one in terms]).mean(0)
    return torch.stack(losses).mean().item(), dict(zip(terms[0], means, strict=True))


def _agree(loss: float, saver: Saver, here: Ranks) -> tuple[float, bool]:
    """What ranks must know alike before they update: the loss over all of them, and whether one was told to stop."""
    total_loss, stop, written, failed = total_of(loss, here.signals.came, *saver.news())
    saver.settle(round(written), round(failed))
    return total_loss / here.world_size, stop > 0


def _mean(figures: dict[str, float], here: Ranks) -> dict[str, float]:
    """Means over the ranks."""
    values = total_of(*figures.values())
    return {name: value / here.world_size for name, value in zip(figures, values, strict=True)}


def _not_finite(what: str, value: float, where: str) -> UserError:
    """The error for a loss or gradient that must not become an update."""
    return UserError(
        f"the {what} is {value} at {where}; the update was not made",
        "look at these samples, lower the learning rate, or go on from the last checkpoint with another seed",
    )


MAY_CHANGE = (
    ".workers", "engine.device", "engine.zero", "engine.offload_optimizer", "engine.micro_batch", "engine.reshard",
    "engine.recompute", "loop.log_every", "loop.validate_every", "loop.save_every", "loop.keep",
    "loop.milestones", "tracker.wandb", "tracker.project", "validation_clips", "validation.batches",
    ".following_clips", ".following_horizon", ".min_action_following", ".min_following_from",
)  # fmt: skip
"""Ends of keys that change nothing in what is learned; all others stay as they were when a run is resumed."""


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def claim(folder: Path, run_config: Any, here: Ranks) -> None:
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
    if here.is_main:
        with publish_file(path) as temporary:
            temporary.write_text(dump_config(run_config))
        write_json(folder / "environment.json", environment())


def _resume(folder: Path, engine: Engine, loader: ClipLoader, here: Ranks) -> tuple[int, int]:
    """Step and global data position to go on from; damaged checkpoints are named and passed over."""
    found = newest_sound(folder) if here.is_main else None
    step = broadcast(found.step if found else -1)
    if step < 0:
        return 0, 0
    checkpoint = checkpoint_of(folder / "checkpoints", step)
    state = read_state(checkpoint)
    position = loader.resume_position(OrderState(**state["order"]))
    engine.load(checkpoint.folder, state["layout"])
    if here.is_main:
        say(f"going on from {checkpoint.folder}")
    return step, position
