"""What a run tells while it trains: metrics, progress, throughput; and at the end what became of it."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from whale.clips.loader import ClipLoader
from whale.config import to_values
from whale.progress import Progress
from whale.ranks import Ranks
from whale.run_folder import RunFolder
from whale.tracker import Tracker

if TYPE_CHECKING:
    from whale.loop import Run


class RunLog:
    """The tracker, the progress line and `status.json` of one run.

    Args:
        run: what is trained.
        here: other processes than the main one log nothing.
        held: the run folder, on the main process.
        step: steps already done.
        loader: what it reads.
    """

    def __init__(self, run: "Run", here: Ranks, held: RunFolder | None, step: int, loader: ClipLoader):
        self._held, self._note = held, ""
        self._frames_per_step = loader.config.batch * loader.config.frames
        if held is not None:
            self._tracker = Tracker(run.tracker, run.folder, to_values(run.config), resumed_step=step or None)
            self._progress = Progress(run.folder.name, run.loop.steps, "steps", done=step)
            held.begin(step)
        self.pause()

    def pause(self) -> None:
        """Measure throughput from here on: what went before was not training."""
        self._start, self._steps, self._wait_sec = time.monotonic(), 0, 0.0

    def time_data(self, batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The next batch, its waiting time counted."""
        start = time.monotonic()
        batch = next(batches)
        self._wait_sec += time.monotonic() - start
        self._steps += 1
        return batch

    def training(self, step: int, values: dict[str, float], position: int) -> None:
        """Log a training step.

        To its figures come frames/s over all ranks, the share of time spent waiting for data, and how many samples the
        run has seen.
        """
        passed = max(time.monotonic() - self._start, 1e-9)
        speed = {"frames_per_sec": self._steps * self._frames_per_step / passed, "data_wait": self._wait_sec / passed}
        self.pause()
        self._log(step, {**values, **speed, "samples": position})
        self._note = f"loss {values['loss']:.3f}"

    def validation(self, step: int, figures: dict[str, float]) -> None:
        """Log a validation."""
        self._log(step, {f"val/{name}": value for name, value in figures.items()})
        self.pause()

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if self._held is not None:
            self._tracker.log(step, values)

    def advance(self) -> None:
        """A step is done."""
        if self._held is not None:
            self._progress.advance(note=self._note)

    def stopped(self, step: int, signal: str) -> None:
        """The run was asked to stop."""
        if self._held is not None:
            self._progress.close(note=f"stopped by {signal}")
            self._held.end("stopped", step, signal)

    def finished(self, step: int, figures: dict[str, float]) -> None:
        """The run has come to its end."""
        if self._held is not None:
            self._progress.close(note=", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
            self._held.end("finished", step)

    def close(self) -> None:
        """Close the metrics."""
        if self._held is not None:
            self._tracker.close()
