"""Ten thousand imagined steps of a small model, retraced and decoded each: does memory grow, does a step slow down?

`soak_memory_growth` is resident memory at the end over that after a tenth, `soak_speed_drift` the median CPU time of a
step in the last tenth over that in the second (CPU time of one thread: what the machine does beside shows little).
"""

import os
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # what training here runs with; read when torch is imported

import numpy as np
import torch
from record import parser, publish
from step_model import CARD

from whale.eval.results import Figure
from whale.models.behavior import BehaviorConfig
from whale.models.dynamics import DynamicsConfig
from whale.models.tokenizer import TokenizerConfig
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.rollout import Imagination
from whale.uncertainty import Retracing

STEPS = 10_000


def resident_mb() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(steps: int) -> dict[str, Any]:
    """Imagine this many frames of two episodes, one restarted twenty times: seconds of each tenth, and memory then."""
    torch.manual_seed(0)
    config = WorldModelConfig(
        tokenizer=TokenizerConfig(image_px=32, width=64), dynamics=DynamicsConfig(width=64, heads=2, depth=2, band=4),
        behavior=BehaviorConfig(width=64), datasets={"benchmark": CARD},
    )  # fmt: skip
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
    actions = rng.uniform(-1, 1, (64, 2, 7)).astype(np.float32)
    context = frames, actions[:3].swapaxes(0, 1)
    imagination = Imagination(WorldModel(config).eval(), *context, "benchmark", 0.2, retracing=Retracing())
    taken, memory = np.zeros(steps), {}
    for step in range(1, steps + 1):
        start = time.process_time()
        imagination.step(actions[step % len(actions)])
        imagination.frame()
        taken[step - 1] = time.process_time() - start
        if step % (steps // 20) == 0:
            imagination.restart([1], *(values[:1] for values in context))
        if step % (steps // 10) == 0:
            memory[step] = resident_mb()
    return {"seconds": [float(median(tenth)) for tenth in np.array_split(taken, 10)], "resident_mb": memory}


def soak_figures(steps: int) -> tuple[list[Figure], dict[str, Any]]:
    found = soak(steps)
    memory = [mb / found["resident_mb"][steps // 10] for mb in found["resident_mb"].values()]
    speed = [seconds / found["seconds"][1] for seconds in found["seconds"][1:]]
    return [
        Figure("soak_memory_growth", memory[-1], min(memory), max(memory), "ratio", steps, {"at_most": 1.01}),
        Figure("soak_speed_drift", speed[-1], min(speed), max(speed), "ratio", steps, {"at_most": 1.1}),
    ], found


def main() -> None:
    flags = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    steps = STEPS // 10 if flags.quick else STEPS
    figures, details = soak_figures(steps)
    publish("soak", figures, details | {"steps": steps, "threads": 1}, flags.out)


if __name__ == "__main__":
    main()
