"""How near a training step comes to the rate of matrix products, as a whole and by part, and to stock modules."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from step_model import FRAMES, build_objective
from stock_transformer import stock
from torch import Tensor, nn

from whale.models.flops import forward_flops, training_flops
from whale.objectives.clip_noise import ClipNoise
from whale.optim import OptimConfig, build_optimizers

Timed = Callable[[], float]


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def products(objective: nn.Module, batch: dict[str, Tensor], dtype: torch.dtype) -> dict[str, tuple[Timed, float]]:
    """Candidates for the rate of a matrix product, with their FLOPs: a square one, and those of the model's layers."""
    width, rows = objective.model.config.dynamics.width, batch["tokens"].numel() + batch["actions"].shape[0] * FRAMES
    hidden = objective.model.dynamics.transformer.blocks[0].mlp.out.in_features
    shapes = [(2048, 2048, 2048), (rows, width, 2 * hidden), (rows, hidden, width), (2 * hidden, rows, width)]
    made: dict[str, tuple[Timed, float]] = {}
    for m, k, n in shapes:
        a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
        made[f"{m} x {k} x {n}"] = (lambda a=a, b=b: seconds(lambda: a @ b)), 2.0 * m * k * n
    return made


def training_step(objective: nn.Module, batch: dict[str, Tensor], losses: list[float]) -> Timed:
    """Forward and backward, with the loss; seconds."""
    counts, noise = objective.counts(batch), lambda: ClipNoise(0, 0, batch["position"])

    def step() -> None:
        loss, _ = objective(batch, counts, noise())
        loss.backward()
        losses.append(loss.item())
        objective.zero_grad()

    return lambda: seconds(step)


def optimizer_step(objective: nn.Module) -> Timed:
    """AdamW on all that is trained; seconds."""
    optimizers = build_optimizers(objective.model, OptimConfig(name="adamw"))
    for value in objective.parameters():
        value.grad = torch.zeros_like(value) if value.requires_grad else None
    return lambda: seconds(lambda: [optimizer.step() for optimizer in optimizers])


def part_steps(objective: nn.Module, batch: dict[str, Tensor]) -> dict[str, tuple[Timed, int]]:
    """Forward and backward of each part alone, on an input of its own, and how often a step runs it."""
    model = objective.model
    dynamics, behavior, tokens_BTS = model.dynamics, model.behavior, batch["tokens"]
    block, depth = dynamics.transformer.blocks[0], len(dynamics.transformer.blocks)
    codes_BTSC, action_BTF = model.codes(tokens_BTS), model.action_features(batch)
    width, frames = model.config.dynamics.width, tokens_BTS.shape[:2]
    x_BTRD = torch.randn(*frames, tokens_BTS.shape[2] + 1, width, requires_grad=True)
    z_BTZ = torch.randn(*frames, model.config.behavior.dim, requires_grad=True)
    constant = batch["control_period_sec"], batch["embodiment"]

    def heads() -> Tensor:
        out = dynamics.read_out(model.tokenizer.quantizer.codebook_VC, tokens_BTS, codes_BTSC, x_BTRD)
        entropy = nn.functional.cross_entropy(out.logits_BTSV[:, :-1].flatten(0, 2), tokens_BTS[:, 1:].flatten())
        return entropy + out.reward_BT.square().mean() + out.terminated_BT.square().mean()

    def whole_behavior() -> Tensor:
        summary_BTD = behavior.summary(codes_BTSC)
        prior = model.prior(summary_BTD, action_BTF)
        posterior = behavior.infer_posterior(summary_BTD, action_BTF, batch["valid"].float())
        z = posterior.mean[:, None] + prior.mean
        return behavior.action_log_prob(summary_BTD, z, batch["actions"], batch["action_mask"]).mean()

    calls: dict[str, tuple[Callable[[], Tensor], int]] = {
        "stem": (lambda: dynamics.embed(codes_BTSC, action_BTF, z_BTZ, *constant), 1),
        "spatial attention": (lambda: x_BTRD + block.spatial(block.norm_spatial(x_BTRD)), depth),
        "temporal attention": (lambda: x_BTRD + block.temporal(block.norm_temporal(x_BTRD)), depth),
        "feed-forward": (lambda: x_BTRD + block.mlp(block.norm_mlp(x_BTRD)), depth),
        "heads": (heads, 1),
        "behavior": (whole_behavior, 1),
    }

    def timed(call: Callable[[], Tensor]) -> Timed:
        def run() -> None:
            out = call()
            out.backward(torch.ones_like(out))
            objective.zero_grad()

        return lambda: seconds(run)

    return {name: (timed(call), times) for name, (call, times) in calls.items()}


def measure(precision: str, batch: dict[str, Tensor], repeats: int) -> dict[str, Any]:
    """Seconds of everything, in rounds that go forwards and backwards through the candidates (A B B A)."""
    dtype, objective = (torch.bfloat16 if precision == "bf16" else torch.float32), build_objective().train()
    config, clips = objective.model.config, len(batch["position"])
    losses: dict[str, list[float]] = {"whale": [], "stock": []}
    candidates = products(objective, batch, dtype)
    parts = part_steps(objective, batch)
    timed: dict[str, Timed] = {name: run for name, (run, _) in candidates.items()}
    timed["whale"] = training_step(objective, batch, losses["whale"])
    timed["stock"] = training_step(stock(objective, FRAMES), batch, losses["stock"])
    timed |= {name: run for name, (run, _) in parts.items()}
    timed["optimizer"] = optimizer_step(build_objective())
    taken: dict[str, list[float]] = {name: [] for name in timed}
    with torch.autocast("cpu", dtype, enabled=precision == "bf16"):
        for number in range(repeats + 1):
            for name in list(timed)[:: -1 if number % 2 else 1]:
                taken[name].append(timed[name]())
    taken = {name: values[1:] for name, values in taken.items()}  # the first warms up
    rates = {name: flops / median(taken[name]) for name, (_, flops) in candidates.items()}
    fastest = max(rates, key=lambda name: rates[name])
    flops = training_flops(config, FRAMES) * clips * FRAMES
    share = flops / candidates[fastest][1]
    by_part = {
        name: {
            "step_share": times * median(taken[name]) / median(taken["whale"]),
            "over_matmul": 3 * forward_flops(config, FRAMES)[name] * clips * FRAMES / times / rates[fastest]
            / median(taken[name]),
        }
        for name, (_, times) in parts.items()
    }  # fmt: skip
    by_part["optimizer"] = {"step_share": median(taken["optimizer"]) / median(taken["whale"])}
    return {
        "at_matmul_rate": [value * share for value in taken[fastest]], "whale": taken["whale"], "stock": taken["stock"],
        "optimizer": taken["optimizer"], "parts": by_part, "matmul_gflops": {k: v / 1e9 for k, v in rates.items()},
        "step_gflop": flops / 1e9, "loss": {name: values[0] for name, values in losses.items()},
    }  # fmt: skip
