"""What a run tells while it trains: metrics, progress, throughput; and at the end what became of it."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from whale.clips.loader import ClipLoader
from whale.config import to_values
from whale.engine import device_of
from whale.progress import Progress, say
from whale.ranks import Ranks
from whale.run_folder import RunFolder
from whale.throughput import Throughput, matmul_rate
from whale.tracker import Tracker

if TYPE_CHECKING:
    from whale.loop import Objective, Run

VIDEO_FPS = 5.0


class RunLog:
    """The tracker, the lines on the console and `status.json` of one run.

    Args:
        run: what is trained.
        objective: says what a frame costs.
        here: other processes than the main one log nothing.
        held: the run folder, on the main process.
        step: steps already done.
        loader: what it reads.
    """

    def __init__(
        self, run: "Run", objective: "Objective", here: Ranks, held: RunFolder | None, step: int, loader: ClipLoader
    ):
        self._held, self._total, self._objective = held, run.loop.steps, objective
        self._with_videos = run.tracker.wandb != "off"
        frames, peak = loader.config.frames, math.inf
        if held is not None:
            dtype = torch.bfloat16 if run.engine.precision == "bf16" else torch.float32
            peak = matmul_rate(device_of(run.engine), dtype) * here.world_size
        flops = objective.flops_per_frame(frames)
        self._speed = Throughput(loader.config.batch * frames, objective.tokens_per_frame, flops, peak)
        if held is not None:
            self._tracker = Tracker(run.tracker, run.folder, to_values(run.config), resumed_step=step or None)
            self._progress = Progress(run.folder.name, run.loop.steps, "steps", done=step, every_sec=math.inf)
            if names := loader.merged_datasets:
                say(f"merged actions in {100 * loader.config.merge.share:g} % of the clips of {', '.join(names)}")
            held.begin(step)
            self._speed.restart()

    def time_data(self, batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The next batch, its waiting time counted."""
        batch: dict[str, Tensor] = self._speed.next_of(batches)
        return batch

    def stalled(self) -> AbstractContextManager[None]:
        """Within, training stands still for a checkpoint."""
        return self._speed.stalled()

    def training(self, step: int, values: dict[str, float], position: int) -> None:
        """Log a training step.

        To its figures comes the speed over all ranks (`whale.throughput`), and how many samples the run has seen.
        """
        speed = self._speed.figures()
        self._log(step, {**values, **speed, "samples": position})
        if self._held is not None:
            self._progress.line(
                f"step {step}/{self._total}  loss {values['loss']:.3f}  {speed['tokens_per_sec']:,.0f} tokens/s  "
                f"MFU {speed['mfu']:.2f}  data {100 * speed['data_wait']:.1f} %"
            )

    def validation(self, step: int, figures: dict[str, float]) -> None:
        """Log a validation."""
        self._log(step, {f"val/{name}": value for name, value in figures.items()})
        if self._held is not None and self._with_videos:
            for name, frames in self._objective.videos().items():
                self._tracker.video(step, f"val/{name}", frames, VIDEO_FPS)
        self._speed.restart()

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if self._held is not None:
            self._tracker.log(step, values)

    def advance(self) -> None:
        """A step is done."""
        if self._held is not None:
            self._progress.advance()

    def stopped(self, step: int, signal: str) -> None:
        """The run was asked to stop."""
        if self._held is not None:
            self._progress.close(note=f"stopped by {signal}")
            self._held.end("stopped", step, signal)

    def finished(self, step: int, figures: dict[str, float]) -> None:
        """The run has come to its end."""
        if self._held is not None:
            overall = {name: value for name, value in figures.items() if "/" not in name}
            self._progress.close(note=", ".join(f"{name} {value:.3f}" for name, value in overall.items()))
            self._held.end("finished", step)

    def close(self) -> None:
        """Close the metrics."""
        if self._held is not None:
            self._tracker.close()
