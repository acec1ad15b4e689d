"""Does the loss fall with size? The ladder's three smallest sizes, trained on the same tokens in the same order.

Sizes are those of configs/pretrain/whale_x_{26m,77m,154m}.yaml; token clips and their tokenizer are what is named, real
ones. So few tokens cannot feed the recipe of those files: here Muon takes the matrices at one rate for all, and AdamW
the rest at a rate that falls with the width. One seed. Figures are cross-entropies of held-out clips after the last
step, in nats a token; intervals are over the clips, which the gains pair one by one. `params_whale_x` counts what
whale_x_414m.yaml builds.
"""

import tempfile
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import parser, publish

from whale.clips.loader import DataConfig, DataSource
from whale.config import load_config
from whale.engine import EngineConfig
from whale.estimate import parameter_counts
from whale.eval.results import Figure
from whale.loop import LoopConfig
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.dynamics_loss import DynamicsLossConfig, clip_counts, dynamics_loss
from whale.objectives.noise import NoiseConfig
from whale.objectives.validation import ValidationConfig
from whale.optim import OptimConfig
from whale.pretrain.config import TrainDynamicsConfig, TrainTokenizerConfig
from whale.pretrain.estimate import EMPTY_CARD
from whale.pretrain.train_dynamics import train_dynamics
from whale.ranks import Ranks
from whale.validate import held_out_batches

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "pretrain"
SIZES = ("26m", "77m", "154m")


def run_config(size: str, words: Namespace, run: Path) -> TrainDynamicsConfig:
    """The run of one size: its networks from its file, everything else alike."""
    rung = load_config(TrainDynamicsConfig, [CONFIGS / f"whale_x_{size}.yaml"])
    steps = 4 if words.quick else words.steps
    data = DataConfig(
        sources=(DataSource(folder=words.tokens),), frames=rung.data.frames, batch=words.batch, workers=0
    )
    return TrainDynamicsConfig(
        run=run, data=data, tokenizer=words.tokenizer, dynamics=rung.dynamics, behavior=rung.behavior,
        loop=LoopConfig(steps=steps, log_every=max(1, steps // 10), validate_every=steps, save_every=steps, keep=1),
        engine=EngineConfig(device="cpu", precision=words.precision),
        validation=ValidationConfig(batches=1, following_clips=0),
        optim=OptimConfig(
            name="muon", lr=words.lr / rung.dynamics.width, muon_lr=words.muon_lr, warmup_steps=steps // 10,
            decay_fraction=0.5,
        ),
    )  # fmt: skip


@torch.no_grad()
def held_out_entropies(model: WorldModel, config: TrainDynamicsConfig, count: int) -> np.ndarray:
    """Mean cross-entropy of each of `count` held-out clips, nats a token."""
    quiet = DynamicsLossConfig(noise=NoiseConfig(tokens=0.0))
    data = replace(config.data, batch=count)
    (batch,) = held_out_batches(data, model.scales, 1, Ranks(), None)
    found = []
    for i in range(count):
        clip = {name: value[i : i + 1] for name, value in batch.items()}
        counts = {name: count_B.sum() for name, count_B in clip_counts(clip).items()}
        _, figures = dynamics_loss(model, clip, counts, quiet, ClipNoise(0, 0, clip["position"]), None)
        found.append(float(figures["cross_entropy"]))
    return np.array(found)


def measure(size: str, words: Namespace, folder: Path) -> tuple[Figure, dict[str, Any]]:
    """Train one size and score it."""
    config, start = run_config(size, words, folder / size), time.perf_counter()
    print(f"{size}: {config.loop.steps} steps of {words.batch} clips, AdamW at {config.optim.lr:.2g}", flush=True)
    train_dynamics(config)
    seconds = time.perf_counter() - start
    model = WorldModel.from_pretrained(config.run / "export")
    entropies = held_out_entropies(model, config, 4 if words.quick else words.held_out)
    spread = 1.96 * entropies.std(ddof=1) / len(entropies) ** 0.5
    loss, counts = float(entropies.mean()), parameter_counts(model)
    clips = config.loop.steps * config.data.batch
    details = {
        "parameters": counts, "trained": counts["behavior"] + counts["dynamics"], "seconds": seconds, "clips": clips,
        "tokens": clips * config.data.frames * model.config.tokenizer.tokens_per_frame,
        "held_out": entropies.tolist(), "lr": config.optim.lr, "muon_lr": config.optim.muon_lr,
    }  # fmt: skip
    return Figure(f"ladder_loss_{size}", loss, loss - spread, loss + spread, "nats a token", len(entropies)), details


def count_largest() -> Figure:
    """Millions of parameters of the largest size, tokenizer included; nothing is allocated."""
    rung = load_config(TrainDynamicsConfig, [CONFIGS / "whale_x_414m.yaml"])
    tokenizer = load_config(TrainTokenizerConfig, [CONFIGS / "tokenizer_256px.yaml"]).model
    cards = {str(i): EMPTY_CARD for i in range(len(rung.data.sources))}
    config = WorldModelConfig(
        tokenizer=tokenizer, dynamics=rung.dynamics, behavior=rung.behavior, datasets=cards
    )
    with torch.device("meta"):
        model = WorldModel(config)
    millions = sum(parameter_counts(model).values()) / 1e6
    return Figure("params_whale_x", millions, millions, millions, "M", 1, {"at_least": 409.86, "at_most": 418.14})


def main() -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--tokens", type=Path, required=True, help="folder of token clips")
    flags.add_argument("--tokenizer", type=Path, required=True, help="the export that made them")
    flags.add_argument("--steps", type=int, default=64)
    flags.add_argument("--batch", type=int, default=2, help="clips of 16 frames")
    flags.add_argument("--lr", type=float, default=0.96, help="AdamW's peak rate times the width")
    flags.add_argument("--muon-lr", type=float, default=1e-2)
    flags.add_argument("--held-out", type=int, default=24, help="clips")
    flags.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    flags.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    words = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = {size: measure(size, words, Path(folder)) for size in words.sizes}
    figures = [count_largest(), *(figure for figure, _ in measured.values())]
    for small, large in zip(words.sizes[:-1], words.sizes[1:], strict=True):
        gains = np.subtract(measured[small][1]["held_out"], measured[large][1]["held_out"])
        gain, spread = float(gains.mean()), 1.96 * float(gains.std(ddof=1)) / len(gains) ** 0.5
        name = f"ladder_gain_{small}_to_{large}"
        figures.append(Figure(name, gain, gain - spread, gain + spread, "nats a token", len(gains), {"at_least": 0.0}))
    publish("ladder", figures, {size: details for size, (_, details) in measured.items()}, words.out)


if __name__ == "__main__":
    main()
