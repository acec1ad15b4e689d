"""What imagining a frame costs: over a recompute without a cache, late over early, over matrix products, and retraced.

A model of 26M parameters with random weights, 256 tokens a frame of 256 pixels, on the CPU in float32. What is compared
is measured in turn. "latent" is a step in token space; "pixels" is a step whose frame is decoded too, which is what an
environment, a policy that looks, or a viewer asks for: `retracing_cost_ratio` is of those. Where there is a GPU,
frames a second of 414M parameters on it too.
"""

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # what training here runs with; read when torch is imported

import torch
from record import parser, publish, ratio
from rollout_model import actions, imagine, rung
from torch import Tensor

from whale.cuda_graph import EAGER_CALLS
from whale.eval.results import Figure, Need
from whale.models.dynamics import ACTION_FEATURES
from whale.models.flops import imagined_flops
from whale.models.layers import swiglu_hidden
from whale.models.linear import Linear
from whale.models.world_model import WorldModel
from whale.rollout import Imagination
from whale.sampling import expected_tokens
from whale.uncertainty import Retracing

CONTEXTS = (1, 2, 4, 8, 16, 32)
EARLY, LATE, SPAN = 20, 190, 10
BATCH = 32
STEPS = 4
"""Imagined one after the other before another rollout has its turn."""

Call = Callable[[], Any]


def in_turn(calls: dict[str, Call], repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, in rounds that go forwards and backwards through them (A B B A); the first warms up."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            calls[name]()
            taken[name].append(time.perf_counter() - start)
    return {name: seconds[1:] for name, seconds in taken.items()}


def latent(imagination: Imagination) -> Call:
    """A step in token space."""
    action = actions(len(imagination.returns_B))
    return lambda: imagination.step(action)


def pixels(imagination: Imagination) -> Call:
    """A step whose frame is decoded."""
    action = actions(len(imagination.returns_B))
    return lambda: (imagination.step(action), imagination.frame())


def recompute(model: WorldModel, frames: int) -> Call:
    """One new frame from `frames` frames of tokens without a cache; only the last one is read out."""
    tokenizer = model.tokenizer
    tokens_BTS = torch.randint(tokenizer.num_codes, (1, frames, model.config.tokenizer.tokens_per_frame))
    features_BTF, inputs = torch.randn(1, frames, ACTION_FEATURES), model.action_inputs("benchmark", 1, 0.2)

    @torch.no_grad()
    def call() -> Tensor:
        dynamics, codes_BTSC = model.dynamics, model.codes(tokens_BTS)
        prior = model.prior(model.behavior.summary(codes_BTSC), features_BTF)
        constant = inputs["control_period_sec"], inputs["embodiment"]
        h_BTRD = dynamics.transformer(dynamics.embed(codes_BTSC, features_BTF, prior.mean, *constant))
        last = tokens_BTS[:, -1:], codes_BTSC[:, -1:], h_BTRD[:, -1:]
        out = dynamics.read_out(tokenizer.quantizer.codebook_VC, *last)
        return expected_tokens(out.logits_BTSV[:, 0], tokenizer)

    return call


def products(model: WorldModel) -> dict[str, tuple[Call, float]]:
    """Candidates for the rate of a matrix product, with their FLOPs: a square one, and those of the model's layers.

    Each as PyTorch computes it, and by the kernel that `whale.models.linear` takes: the faster one counts.
    """
    width, rows = model.config.dynamics.width, BATCH * (model.config.tokenizer.tokens_per_frame + 1)
    hidden = swiglu_hidden(width)
    made: dict[str, tuple[Call, float]] = {}
    for m, k, n in [(2048, 2048, 2048), (rows, width, 3 * width), (rows, width, 2 * hidden), (rows, hidden, width)]:
        a, b = torch.randn(m, k), torch.randn(n, k)
        layer = Linear(k, n, bias=False).requires_grad_(False)
        made[f"{m} x {k} x {n}"] = (lambda a=a, b=b: torch.nn.functional.linear(a, b)), 2.0 * m * k * n
        made[f"{m} x {k} x {n}, oneDNN"] = torch.no_grad()(lambda a=a, layer=layer: layer(a)), 2.0 * m * k * n
    return made


def cached_figures(model: WorldModel, repeats: int) -> tuple[list[Figure], dict[str, Any]]:
    calls: dict[str, Call] = {"cached": latent(imagine(model))}
    taken = in_turn(calls | {str(frames): recompute(model, frames) for frames in CONTEXTS}, repeats)
    curve = [ratio(f"recompute_{frames}_over_cached", taken[str(frames)], taken["cached"], None) for frames in CONTEXTS]
    figure = ratio("rollout_cached_over_recompute", taken["16"], taken["cached"], {"at_least": 0.7 * 16})
    return [figure], {"recompute_over_cached": {f.name: [f.value, f.low, f.high] for f in curve}, "seconds": taken}


def flatness_figure(model: WorldModel, repeats: int) -> Figure:
    """Frames 190 to 200 of one rollout in turn with frames 20 to 30 of another."""
    early, late = [], []
    for _ in range(repeats):
        young, old = imagine(model), imagine(model)
        for imagination, frames in ((young, EARLY), (old, LATE)):
            for _ in range(frames - model.config.dynamics.band):
                latent(imagination)()
        taken = in_turn({"early": latent(young), "late": latent(old)}, SPAN)
        early, late = early + taken["early"], late + taken["late"]
    return ratio("rollout_flatness", late, early, {"at_most": 1.1})


def matmul_figures(model: WorldModel, repeats: int) -> tuple[list[Figure], dict[str, Any]]:
    """At batch 32, of the FLOPs that the mathematics needs."""
    candidates, flops = products(model), imagined_flops(model.config)
    calls: dict[str, Call] = {name: call for name, (call, _) in candidates.items()}
    taken = in_turn(calls | {"latent": latent(imagine(model, BATCH)), "pixels": pixels(imagine(model, BATCH))}, repeats)
    rates = {name: work / median(taken[name]) for name, (_, work) in candidates.items()}
    fastest = max(rates, key=lambda name: rates[name])

    def over_matmul(name: str, work: float, imagined: list[float], need: Need | None) -> Figure:
        at_matmul_rate = [seconds * BATCH * work / candidates[fastest][1] for seconds in taken[fastest]]
        return ratio(name, at_matmul_rate, imagined, need)

    figures = [
        over_matmul("rollout_over_matmul_b32", flops["latent"], taken["latent"], {"at_least": 0.5}),
        over_matmul("rollout_over_matmul_b32_pixels", sum(flops.values()), taken["pixels"], None),
    ]
    gflops = {name: rate / 1e9 for name, rate in rates.items()}
    return figures, {"matmul_gflops": gflops, "gflop_per_frame": {k: v / 1e9 for k, v in flops.items()}, "sec": taken}


def retracing_figures(model: WorldModel, repeats: int, copies: int = 1) -> tuple[list[Figure], dict[str, Any]]:
    """A rollout with K = {0, 1} over a plain one, each a few steps at a time, as it is in use.

    Four imaginations: one that also went on without decoding would decode a whole window after that.
    """

    def steps(of: Callable[[Imagination], Call], retracing: Retracing | None) -> Call:
        call = of(imagine(model, copies, retracing=retracing))
        return lambda: [call() for _ in range(STEPS)]

    kinds = {"": latent, "_pixels": pixels}
    calls = {f"plain{suffix}": steps(of, None) for suffix, of in kinds.items()}
    calls |= {f"retraced{suffix}": steps(of, Retracing()) for suffix, of in kinds.items()}
    taken = in_turn(calls, repeats)
    return [
        ratio("retracing_cost_ratio", taken["retraced_pixels"], taken["plain_pixels"], {"at_most": 1.7}),
        ratio("retracing_cost_ratio_latent", taken["retraced"], taken["plain"], None),
    ], {"seconds": taken}


def gpu_figures() -> list[Figure]:
    """Frames a second of 414M parameters on a GPU, the transformer of the dynamics in bfloat16, the rest in float32."""
    model, figures = rung("414m").cuda(), []
    model.dynamics.transformer.bfloat16()
    for copies, need in ((1, 300), (64, 2000)):
        calls = {"": latent(imagine(model, copies)), "_pixels": pixels(imagine(model, copies))}
        in_turn(calls, EAGER_CALLS)  # after which the frame step is a CUDA graph
        for name, seconds in in_turn(calls, 50).items():
            rates = [copies / one for one in seconds]
            bound: Need | None = None if name else {"at_least": need}
            figures.append(
                Figure(f"fps_414m_b{copies}{name}", median(rates), min(rates), max(rates), "frames/s", 50, bound)
            )
    return figures


def main() -> None:
    flags = parser(__doc__ or "").parse_args()
    quick = flags.quick
    model = rung("26m")
    cached, cached_details = cached_figures(model, 3 if quick else 15)
    flat = flatness_figure(model, 1 if quick else 3)
    matmul, matmul_details = matmul_figures(model, 2 if quick else 9)
    retraced, retraced_details = retracing_figures(model, 7 if quick else 25)
    details = {
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()},
        "tokens_per_frame": model.config.tokenizer.tokens_per_frame, "band": model.config.dynamics.band,
        "threads": torch.get_num_threads(), "cached": cached_details, "matmul": matmul_details,
        "retracing": retraced_details,
    }  # fmt: skip
    on_gpu = gpu_figures() if torch.cuda.is_available() else []
    publish("rollout", [*cached, flat, *matmul, *retraced, *on_gpu], details, flags.out)


if __name__ == "__main__":
    main()
