"""How fast a run trains: tokens/s, MFU, and what it waited for.

MFU (model FLOPs utilisation; Chowdhery et al., 2022, appendix B) is the work that the model's mathematics needs, over
what the devices could do in the same time. That is measured, not looked up: the rate of a large matrix product, in the
precision of the run, on the device of the main process, times the number of processes. Activations that are computed
again (`engine.recompute`) are no work of the model and do not count.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch

_BUDGET_SEC = 0.3
_SIDES = {"cpu": 1024, "cuda": 8192}


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of the square matrix products that fit into a third of a second."""
    side = _SIDES[device.type]
    generator = torch.Generator(device).manual_seed(0)  # what lies in the matrices changes a GPU's clock
    left, right = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    fastest, end = float("inf"), time.perf_counter() + _BUDGET_SEC
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * side**3 / fastest


class Throughput:
    """Counts steps, and the time that they and other things take.

    Args:
        frames: frames of a step, over all processes.
        tokens_per_frame: of the objective.
        flops_per_frame: of the objective, for clips as long as these.
        peak: FLOP/s of all devices together.
    """

    def __init__(self, frames: int, tokens_per_frame: int, flops_per_frame: float, peak: float):
        self._frames, self._tokens_per_frame = frames, tokens_per_frame
        self._utilisation_per_frame = flops_per_frame / peak
        self._stall_sec = 0.0
        self.restart()

    def restart(self) -> None:
        """Measure from here on: what went before was not training."""
        self._start, self._steps, self._wait_sec = time.monotonic(), 0, 0.0

    def next_of(self, batches: Iterator[Any]) -> Any:
        """The next batch of a step, its waiting time counted."""
        start = time.monotonic()
        batch = next(batches)
        self._wait_sec += time.monotonic() - start
        self._steps += 1
        return batch

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Training stands still for a checkpoint; counted by itself, and not as time of the steps."""
        start = time.monotonic()
        yield
        taken = time.monotonic() - start
        self._stall_sec += taken
        self._start += taken

    def figures(self) -> dict[str, float]:
        """Of the steps since the last call or `restart`; seconds of stall since the last call."""
        passed = max(time.monotonic() - self._start, 1e-9)
        frames_per_sec = self._steps * self._frames / passed
        figures = {
            "frames_per_sec": frames_per_sec,
            "tokens_per_sec": frames_per_sec * self._tokens_per_frame,
            "mfu": frames_per_sec * self._utilisation_per_frame,
            "data_wait": self._wait_sec / passed,
            "checkpoint_stall_sec": self._stall_sec,
        }
        self._stall_sec = 0.0
        self.restart()
        return figures
