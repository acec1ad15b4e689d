"""What a training step on a CPU costs: over matrix products, over stock PyTorch modules, and under ZeRO 1.

`step_over_matmul` is the FLOP/s of forward and backward pass over the rate of the fastest matrix product found, the
FLOPs being those that the mathematics needs (`whale/models/flops.py`). `step_over_stock` is how many times as fast as
PyTorch's own modules the step is. `zero1_over_plain` is the time of an update under DeepSpeed's ZeRO 1 over one
without. All are of dynamics and behaviour on random tokens, candidates in turn.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # what training here runs with; read when torch is imported

import step_speed
import torch
from record import parser, publish, ratio
from step_model import FRAMES, build_objective, random_batch

from whale.engine import EngineConfig, open_engine
from whale.eval.results import Figure
from whale.objectives.clip_noise import ClipNoise
from whale.optim import OptimConfig
from whale.ranks import Ranks


def update_step(zero: int | None, precision: Any, batch: dict[str, torch.Tensor]) -> Any:
    """A function that makes one update and returns its seconds."""
    objective, optim = build_objective(), OptimConfig(name="adamw")
    config = EngineConfig(precision=precision, device="cpu", zero=zero)  # type: ignore[arg-type]
    engine = open_engine(config, objective, objective.model, optim, len(batch["position"]), Ranks())
    counts = objective.counts(batch)

    def step(number: int) -> float:
        start = time.perf_counter()
        engine.accumulate(True, batch, counts, ClipNoise(0, number, batch["position"]))
        engine.step(1.0)
        return time.perf_counter() - start

    return step


def measure_zero(precision: str, batch: dict[str, torch.Tensor], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step of both back ends; which one goes first alternates."""
    steps = {"plain": update_step(None, precision, batch), "zero1": update_step(1, precision, batch)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(repeats + 1):
        for name in sorted(steps, reverse=number % 2 == 1):
            seconds[name].append(steps[name](number))
    return {name: values[1:] for name, values in seconds.items()}  # the first warms up


def in_process(measure: Callable[..., Any], *arguments: Any) -> Any:
    """A process for each: accelerate's precision is one for a process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def speed_figures(suffix: str, taken: dict[str, Any]) -> list[Figure]:
    bare = suffix == ""
    both = [step + update for step, update in zip(taken["whale"], taken["optimizer"], strict=True)]
    return [
        ratio(
            f"step_over_matmul{suffix}", taken["at_matmul_rate"], taken["whale"], {"at_least": 0.5} if bare else None
        ),
        ratio(f"step_over_matmul_with_optimizer{suffix}", taken["at_matmul_rate"], both, None),
        ratio(f"step_over_stock{suffix}", taken["stock"], taken["whale"], {"at_least": 1.0} if bare else None),
    ]


def main() -> None:
    flags = parser(__doc__ or "").parse_args()
    repeats, clips = (3, 2) if flags.quick else (15, 4)
    model = build_objective().model
    batch = random_batch(clips, model.config.tokenizer.tokens_per_frame, model.tokenizer.num_codes)
    figures, seconds, speed = [], {}, {}
    for precision, suffix in (("fp32", ""), ("bf16", "_bf16")):
        speed[precision] = in_process(step_speed.measure, precision, batch, repeats)
        figures += speed_figures(suffix, speed[precision])
        seconds[precision] = in_process(measure_zero, precision, batch, repeats)
        figures.append(
            ratio(
                f"zero1_over_plain{suffix}", seconds[precision]["zero1"], seconds[precision]["plain"], {"at_most": 1.1}
            )
        )
    details = {
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()},
        "clips": clips, "frames": FRAMES, "threads": torch.get_num_threads(), "optimizer": "AdamW",
        "step_sec": seconds, "speed": speed,
    }  # fmt: skip
    publish("step", figures, details, flags.out)


if __name__ == "__main__":
    main()
