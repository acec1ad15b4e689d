"""Kills training with SIGKILL at random moments, and compares what it ends with to a run that nobody disturbed.

For every back end two runs train the same model: one undisturbed; the other killed again and again, all its processes
at once, every third time while a checkpoint is being saved, and started again until it ends. Weights, optimiser state,
losses and sample positions must be equal to the last bit: then `resume_exact_*` is 1. `kills_*` says how often the run
was killed.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from record import parser, publish

from whale.checkpoint_folder import find_checkpoints
from whale.eval.results import Figure

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
MODEL = ("dynamics.width=32", "dynamics.depth=2", "behavior.width=32", "behavior.dim=8", "validation.batches=1")
LOOP = ("loop.log_every=1", "loop.validate_every=100", "loop.save_every=4", "loop.milestones=[]", "loop.keep=3")


STEPS_PER_KILL = 15
"""So that the run is not over before it was killed often enough."""


@dataclass(frozen=True)
class Case:
    """A back end, and how often it is killed."""

    name: str
    zero: int | None
    world_size: int
    kills: int


CASES = (
    Case("zero1", 1, 2, 50), Case("zero0", 0, 2, 5), Case("zero2", 2, 2, 5), Case("zero3", 3, 2, 5),
    Case("ddp", None, 2, 5), Case("plain", None, 1, 5),
)  # fmt: skip


def whale(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "whale", *words], check=True, stdout=subprocess.DEVNULL)


def prepare() -> None:
    """Token clips of the tabletop and their tokenizer, in the present folder."""
    pixels = f"{CONFIGS}/data_prep/tabletop_"
    whale("data_prep", "collect", f"{pixels}collect.yaml", "episodes=24", "shards=2", "steps=16")
    whale("data_prep", "convert", f"{pixels}convert.yaml")
    small = ("loop.steps=4", "data.batch=2", "model.quantizer.num_codes=64", "initial_clips=12", "validation_clips=4")
    whale("pretrain", "tokenizer", f"{CONFIGS}/pretrain/tabletop_tokenizer.yaml", *small)
    whale("data_prep", "tokenize", f"{pixels}tokenize.yaml")


def start(case: Case, run: Path, steps: int) -> list[subprocess.Popen[bytes]]:
    """All processes of a training run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    engine = (f"engine.zero={'null' if case.zero is None else case.zero}", "engine.precision=fp32", "engine.device=cpu")
    words = [sys.executable, "-m", "whale", "pretrain", "dynamics", f"{CONFIGS}/pretrain/tabletop_dynamics.yaml"]
    words += [f"run={run}", f"loop.steps={steps}", "data.batch=4", "optim.name=adamw", *engine, *MODEL, *LOOP]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(case.world_size)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            words, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for rank in range(case.world_size)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
    told = [process.communicate()[1].decode() for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"training failed: {[p.returncode for p in processes]}\n" + "\n".join(told))


def saving(run: Path) -> bool:
    return any((run / "checkpoints").glob(".tmp-step_*"))


def kill_at_random(run: Path, processes: list[subprocess.Popen[bytes]], dice: random.Random, in_a_save: bool) -> str:
    """Kill all processes once training has gone on; returns where: `save`, `step`, or `` when the run ended before."""
    status = run / "status.json"
    begun = time.time()

    def alive() -> bool:
        return all(process.poll() is None for process in processes)

    def trains() -> bool:
        return status.is_file() and status.stat().st_mtime > begun and '"first_step": null' not in status.read_text()

    while alive() and not trains():
        time.sleep(0.01)
    time.sleep(dice.uniform(0.0, 0.8))
    while in_a_save and alive() and not saving(run):
        time.sleep(0.0005)
    if not alive():
        return ""
    for process in processes:
        process.send_signal(signal.SIGKILL)
    where = "save" if saving(run) else "step"
    for process in processes:
        process.communicate()
    return where


def fingerprint(run: Path) -> dict[str, str]:
    """Hashes of everything that must be equal."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["step"], line["loss"], line["grad_norm"], line["samples"]) for line in lines if "loss" in line]
    assert [step for step, *_ in steps] == list(range(1, len(steps) + 1)), "a step is missing or there twice"
    last = find_checkpoints(run / "checkpoints")[-1].folder
    files = [file for file in sorted(last.rglob("*")) if file.suffix in (".safetensors", ".pt")]
    hashes = {str(file.relative_to(last)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return hashes | {"steps": hashlib.sha256(json.dumps(steps).encode()).hexdigest()}


def measure(case: Case, kills: int) -> dict[str, object]:
    """Both runs of a back end, and what differs between them."""
    steps = STEPS_PER_KILL * kills
    undisturbed, killed = Path(f"runs/{case.name}"), Path(f"runs/{case.name}_killed")
    finish(start(case, undisturbed, steps))
    dice, where = random.Random(case.name), []
    while len(where) < kills:
        processes = start(case, killed, steps)
        moment = kill_at_random(killed, processes, dice, in_a_save=len(where) % 3 == 2)
        if not moment:
            finish(processes)
            break
        where.append(moment)
    finish(start(case, killed, steps))
    mine, other = fingerprint(killed), fingerprint(undisturbed)
    different = sorted(name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name))
    in_a_save = where.count("save")
    print(f"{case.name}: {len(where)} kills, {in_a_save} in a save, different: {different or 'nothing'}", flush=True)
    shutil.rmtree(undisturbed)
    shutil.rmtree(killed)
    return {"kills": len(where), "in_a_save": in_a_save, "different": different, "steps": steps}


def main() -> None:
    flags = parser(__doc__ or "").parse_args()
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare()
        kills = {"zero1": 2} if flags.quick else {case.name: case.kills for case in CASES}
        found = {case.name: measure(case, kills[case.name]) for case in CASES if case.name in kills}
        os.chdir(home)
    figures = []
    for name, one in found.items():
        exact, count = float(not one["different"]), float(one["kills"])  # type: ignore[arg-type]
        figures.append(Figure(f"resume_exact_{name}", exact, exact, exact, "share of runs", 1, {"at_least": 1.0}))
        figures.append(Figure(f"kills_{name}", count, count, count, "kills", 1, {"at_least": float(kills[name])}))
    publish("resume", figures, {"cases": found}, flags.out and (home / flags.out))


if __name__ == "__main__":
    main()
