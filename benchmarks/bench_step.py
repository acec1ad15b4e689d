"""What a training step costs under DeepSpeed's ZeRO 1, over the same step without it.

Both back ends train the same dynamics in one process on the same random tokens, a step of one and a step of the other
in turn. `zero1_over_plain` is the ratio of their median times.
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # what training here runs with; read when torch is imported

import torch
from record import parser, publish, ratio

from whale.engine import EngineConfig, open_engine
from whale.models.behavior import BehaviorConfig
from whale.models.dataset_card import DatasetCard
from whale.models.dynamics import DynamicsConfig
from whale.models.tokenizer import TokenizerConfig
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.dynamics_loss import DynamicsLossConfig, DynamicsObjective
from whale.optim import OptimConfig
from whale.ranks import Ranks

FRAMES = 8
CARD = DatasetCard(
    action_low=(-1.0,) * 7, action_high=(1.0,) * 7, action_status=(2,) * 7, action_type="eef_delta", reward_mean=0.0,
    reward_std=1.0, control_period_sec=0.2,
)  # fmt: skip


def build_objective() -> DynamicsObjective:
    torch.manual_seed(0)
    config = WorldModelConfig(
        tokenizer=TokenizerConfig(), dynamics=DynamicsConfig(width=512, heads=8, depth=6, band=4),
        behavior=BehaviorConfig(width=256), datasets={"benchmark": CARD},
    )  # fmt: skip
    return DynamicsObjective(WorldModel(config), DynamicsLossConfig(), [])


def random_batch(clips: int, tokens: int, codes: int) -> dict[str, torch.Tensor]:
    known = torch.ones(clips, FRAMES, dtype=torch.bool)
    return {
        "tokens": torch.randint(codes, (clips, FRAMES, tokens)),
        "actions": torch.randn(clips, FRAMES, 7), "action_mask": known[..., None].expand(-1, -1, 7),
        "action_status": torch.full((clips, 7), 2), "action_type": torch.zeros(clips, dtype=torch.int64),
        "rewards": torch.randn(clips, FRAMES), "reward_mask": known, "valid": known,
        "terminated": torch.zeros(clips, FRAMES, dtype=torch.bool), "terminated_mask": known,
        "control_period_sec": torch.full((clips,), 0.2), "embodiment": torch.zeros(clips, dtype=torch.int64),
        "position": torch.arange(clips),
    }  # fmt: skip


def make_step(zero: int | None, precision: Any, batch: dict[str, torch.Tensor]) -> Any:
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


def measure(precision: str, batch: dict[str, torch.Tensor], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step of both back ends; which one goes first alternates."""
    steps = {"plain": make_step(None, precision, batch), "zero1": make_step(1, precision, batch)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(repeats + 1):
        for name in sorted(steps, reverse=number % 2 == 1):
            seconds[name].append(steps[name](number))
    return {name: values[1:] for name, values in seconds.items()}  # the first warms up


def main() -> None:
    flags = parser(__doc__ or "").parse_args()
    repeats, clips = (3, 4) if flags.quick else (15, 4)
    model = build_objective().model
    parameters = sum(p.numel() for p in model.parameters())
    batch = random_batch(clips, model.config.tokenizer.tokens_per_frame, model.tokenizer.num_codes)
    figures, seconds = [], {}
    for precision in ("fp32", "bf16"):
        # A process for each: accelerate's precision is one for a process.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            seconds[precision] = pool.submit(measure, precision, batch, repeats).result()
        name = "zero1_over_plain" + ("_bf16" if precision == "bf16" else "")
        figures.append(ratio(name, seconds[precision]["zero1"], seconds[precision]["plain"], {"at_most": 1.1}))
    details = {
        "parameters": parameters, "clips": clips, "frames": FRAMES, "threads": torch.get_num_threads(),
        "optimizer": "AdamW", "step_sec": seconds,
    }  # fmt: skip
    publish("step", figures, details, flags.out)


if __name__ == "__main__":
    main()
