"""How long training stands still for a checkpoint, and how long it takes until that is on the disk.

World models with AdamW (weights and two moments, 12 bytes a parameter) are trained by real steps and saved as the loop
saves them. Of the largest model:

- `checkpoint_stall_sec`: for how long the loop does not train, to copy the state and later to publish what was
  written; the median of all saves, the first included.
- `stall_over_copy`: the same over a copy of as many bytes from memory to memory.
- `durable_over_write`: from the start of a save until it is published (written, synced, hashed), with no training
  meanwhile, over a plain write and fsync of as many bytes.
- `step_while_saving`: a step while a checkpoint is written, over one without.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # what training here runs with; read when torch is imported

import torch
from record import parser, publish, ratio
from step_model import build_objective, random_batch

from whale.checkpoint_folder import checkpoint_of
from whale.engine import EngineConfig, open_engine
from whale.eval.results import Figure
from whale.objectives.clip_noise import ClipNoise
from whale.optim import OptimConfig
from whale.ranks import Ranks
from whale.saver import Saver

SIZES = {"28M": (512, 6), "154M": (768, 15), "414M": (1024, 24)}
"""Width and depth of the dynamics."""
FRAMES = 2


def seconds(work: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def plain_copy(source: torch.Tensor, target: torch.Tensor, num_bytes: int) -> None:
    """Copy that many bytes, a block again and again."""
    for _ in range(num_bytes // source.nbytes):
        target.copy_(source)


def plain_write(folder: Path, num_bytes: int) -> None:
    """Write and fsync that many bytes."""
    block = memoryview(bytes(os.urandom(1 << 20) * 64))
    path = folder / "plain"
    with path.open("wb", buffering=0) as file:
        for start in range(0, num_bytes, len(block)):
            file.write(block[: num_bytes - start])
        os.fsync(file.fileno())


def measure(width: int, depth: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Seconds of stalls, durable saves, copies, writes and steps."""
    objective = build_objective(width, depth)
    model = objective.model
    engine = open_engine(EngineConfig(device="cpu"), objective, model, OptimConfig(name="adamw"), 1, Ranks())
    batch = random_batch(1, model.config.tokenizer.tokens_per_frame, model.tokenizer.num_codes)
    batch = {name: value[:, :FRAMES] if value.ndim > 1 else value for name, value in batch.items()}
    batch["action_status"] = torch.full((1, 7), 2)
    counts = objective.counts(batch)
    saver = Saver(folder / "checkpoints", Ranks(), keep=1, milestones=())
    taken: dict[str, list[float]] = {name: [] for name in ("stall", "durable", "copy", "write", "saving", "alone")}

    def step() -> None:
        engine.accumulate(True, batch, counts, ClipNoise(0, 0, batch["position"]))
        engine.step(1.0)

    def save(number: int) -> None:
        taken["stall"].append(seconds(saver.start, number, {"step": number}, engine.snapshot))

    def settle() -> None:
        while not saver.news()[0]:
            time.sleep(0.001)
        taken["stall"][-1] += seconds(saver.settle, 1, 0)

    def save_all(number: int) -> None:
        save(number)
        settle()

    source, target = torch.ones(1 << 26), torch.ones(1 << 26)
    step()
    step()
    for number in range(0, 2 * repeats, 2):
        taken["durable"].append(seconds(save_all, number))
        saver.finish()
        found = checkpoint_of(folder / "checkpoints", number).folder
        num_bytes = sum(file.stat().st_size for file in found.iterdir())
        taken["copy"].append(seconds(plain_copy, source, target, num_bytes))
        taken["write"].append(seconds(plain_write, folder, num_bytes))
        taken["alone"].append(seconds(step))
        save(number + 1)
        taken["saving"].append(seconds(step))
        settle()
        saver.finish()
    parameters = sum(value.numel() for value in model.parameters())
    return {"parameters": parameters, "bytes": num_bytes, "seconds": taken}


def main() -> None:
    flags = parser(__doc__ or "").parse_args()
    repeats, sizes = (2, ["28M"]) if flags.quick else (3, ["154M", "414M"])
    found = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found[size] = measure(*SIZES[size], repeats, Path(folder))
        taken = found[size]["seconds"]
        told = ", ".join(f"{one:.3f}" for one in taken["stall"])
        print(f"{size}: {found[size]['parameters'] / 1e6:.1f}M parameters, {found[size]['bytes'] / 1e9:.2f} GB, stalls "
              f"{told} s, durable {median(taken['durable']):.2f} s", flush=True)
    stalls = taken["stall"]
    need = {"at_most": 1.0}
    figures = [
        Figure("checkpoint_stall_sec", median(stalls), min(stalls), max(stalls), "s", len(stalls), need),
        ratio("stall_over_copy", taken["stall"][::2], taken["copy"], None),
        ratio("durable_over_write", taken["durable"], taken["write"], None),
        ratio("step_while_saving", taken["saving"], taken["alone"], None),
    ]
    details = {"sizes": found, "threads": torch.get_num_threads(), "optimizer": "AdamW", "frames_of_a_step": FRAMES}
    publish("checkpoint", figures, details, flags.out)


if __name__ == "__main__":
    main()
