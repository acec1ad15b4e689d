"""What `--dry-run` prints: size, work, memory and time of a training run, before anything is read or allocated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from whale.clips.loader import DataConfig
from whale.engine import EngineConfig
from whale.estimate import Zero, memory, nothing_allocated, parameter_counts, peak_activations
from whale.models.flops import forward_flops, training_flops
from whale.models.tokenizer import TokenizerConfig
from whale.models.world_model import WorldModelConfig
from whale.objectives.dynamics_objective import DynamicsObjective
from whale.objectives.tokenizer_loss import TokenizerObjective
from whale.optim import OptimConfig

Trained = DynamicsObjective | TokenizerObjective
PROCESSES = (1, 8, 64)
STAGES: tuple[Zero, ...] = (None, 0, 1, 2, 3)
MFU = 0.45
"""Share of the peak that model FLOPs reach: assumed."""
PEAKS = {"H100/H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s by the data sheets of the SXM modules."""
TRAJECTORIES, TRAJECTORY_FRAMES = 970_000, 50
"""Of Open X-Embodiment, and the frames of one: 10 s at 5 Hz, assumed."""
GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """A training run that is not started."""

    title: str
    model: WorldModelConfig | TokenizerConfig
    build: Callable[[int], Trained]
    """The objective, around a model of so many blocks."""
    depth: int
    """Blocks of what is trained."""
    frame_shape: tuple[int, ...]
    """Of one frame of a clip: one dimension for tokens, three for pixels."""
    data: DataConfig
    steps: int
    optim: OptimConfig
    engine: EngineConfig
    notes: tuple[str, ...] = ()
    """What was assumed."""


def describe(plan: Plan) -> str:
    """The whole text."""
    with nothing_allocated():
        objective = plan.build(plan.depth)
        sections = [_parameters(objective), _work(plan, objective), _memory(plan, objective), _time(plan)]
    notes = [[f"note: {note}" for note in plan.notes]] if plan.notes else []
    return "\n\n".join("\n".join(lines) for lines in [[plan.title], *notes, *sections])


def _table(rows: list[list[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _parameters(objective: Trained) -> list[str]:
    counts = parameter_counts(objective.model)
    rows = [[name, f"{count / 1e6:.2f} M"] for name, count in counts.items()]
    if len(counts) > 1:
        rows[0][0] += " (frozen)"
        rows += [["behavior + dynamics", f"{(counts['behavior'] + counts['dynamics']) / 1e6:.2f} M"]]
        rows += [["total", f"{sum(counts.values()) / 1e6:.2f} M"]]
    return ["parameters", *_table(rows)]


def _tokens_per_frame(plan: Plan) -> int:
    return (plan.model if isinstance(plan.model, TokenizerConfig) else plan.model.tokenizer).tokens_per_frame


def _work(plan: Plan, objective: Trained) -> list[str]:
    frames, tokens = plan.data.frames, _tokens_per_frame(plan)
    total = training_flops(plan.model, frames)
    forward = forward_flops(plan.model, frames)
    parts = {name: (1 if name == "quantizer" else 3) * flops for name, flops in forward.items()}
    rows = [["part", "MFLOP", "share"]]
    rows += [[name, f"{flops / tokens / 1e6:.4g}", f"{flops / total:.1%}"] for name, flops in parts.items() if flops]
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    rows += [["all", f"{total / tokens / 1e6:.4g}", ""], ["6 x trained parameters", f"{6 * trained / 1e6:.4g}", ""]]
    head = f"work a token, forward and backward ({frames} frames of {tokens} tokens a clip; matrix products)"
    return [head, *_table(rows)]


def _memory(plan: Plan, objective: Trained) -> list[str]:
    low = plan.engine.precision == "bf16"

    @cache
    def activations(clips: int, low_weights: bool, recompute: bool) -> float:
        def traced(depth: int) -> int:
            return peak_activations(
                plan.build(depth), clips, plan.data.frames, plan.frame_shape,
                autocast=low, low_precision_weights=low_weights, fused=True, recompute=recompute,
            )  # fmt: skip

        if plan.depth <= 3:
            return traced(plan.depth)
        two, three = traced(2), traced(3)  # blocks are alike
        return two + (plan.depth - 2) * (three - two)

    rows = [["processes", "ZeRO", "clips", "weights", "gradients", "optimizer", "buckets", "activations", "total",
             "recomputed", "total"]]  # fmt: skip
    for processes in PROCESSES:
        share = plan.data.batch // processes
        clips = plan.engine.micro_batch or share
        if share * processes != plan.data.batch or share % clips or not share:
            continue
        for zero in STAGES:
            optim = plan.optim if zero is None else replace(plan.optim, name="adamw")
            kept, again = (
                memory(objective.model, optim, zero, low, processes, activations(clips, low and bool(zero), recompute))
                for recompute in (False, True)
            )
            values = [kept.weights, kept.gradients, kept.optimizer, kept.buckets, kept.activations, kept.total]
            values += [again.activations, again.total]
            here = " *" if zero == plan.engine.zero else "  "
            stage = "-" if zero is None else str(zero)
            rows.append([f"{processes}", stage + here, f"{clips}", *(f"{value / GIB:.2f}" for value in values)])
    head = f"memory of a process in GiB, {plan.engine.precision}, on a GPU (* as configured; -: without ZeRO)"
    return [head, *_table(rows)]


def _time(plan: Plan) -> list[str]:
    frames, tokens = plan.data.frames, _tokens_per_frame(plan)
    drawn = plan.steps * plan.data.batch * frames
    per_frame = training_flops(plan.model, frames)
    rows = [["", "frames", "tokens", "EFLOP", *(f"{name} hours" for name in PEAKS)]]
    runs = {
        f"this run ({plan.steps} steps of {plan.data.batch} clips)": drawn,
        f"{TRAJECTORIES // 1000}K trajectories of {TRAJECTORY_FRAMES} frames, once": TRAJECTORIES * TRAJECTORY_FRAMES,
    }
    for name, count in runs.items():
        flops = per_frame * count
        hours = (flops / (MFU * peak) / 3600 for peak in PEAKS.values())
        row = [name, f"{count / 1e6:.3g} M", f"{count * tokens / 1e9:.3g} G", f"{flops / 1e18:.3g}"]
        rows.append([*row, *(f"{hour:.3g}" for hour in hours)])
    peaks = ", ".join(f"{name} {peak / 1e12:.0f} TFLOP/s" for name, peak in PEAKS.items())
    head = f"time at MFU {MFU} of the nominal dense bf16 peak ({peaks})"
    return [head, *_table(rows)]
