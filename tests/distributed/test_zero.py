"""What the DeepSpeed back end refuses: updates that are not finite, other optimisers, files that ask for code."""

import json
import os
import pickle
import shutil
import signal
from pathlib import Path

import pytest
import torch
from tiny_runs import bits, curve, last_checkpoint

from whale.checkpoint import sha256_file
from whale.checkpoint_folder import COMPLETE
from whale.engine import EngineConfig
from whale.zero import render

# The fourth micro-batch of rank 1 alone has a gradient, or a loss, that is not finite.
POISON = """
from whale.objectives.dynamics_objective import DynamicsObjective

def poisoned(self, *arguments, forward=DynamicsObjective.forward, calls=[]):
    loss, figures = forward(self, *arguments)
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == 4:
        {poison}
    return loss, figures

DynamicsObjective.forward = poisoned
"""
POISONS = {
    "gradient norm": "loss.register_hook(lambda gradient: gradient * float('inf'))",
    "loss": "loss = loss + float('nan')",
}


@pytest.mark.parametrize(("zero", "what"), [
    (1, "gradient norm"), (1, "loss"),
    *(pytest.param(zero, what, marks=pytest.mark.slow) for zero in (None, 0, 2, 3) for what in POISONS),
])  # fmt: skip
def test_what_is_not_finite_stops_all(tiny, launcher, tmp_path, zero, what):
    words = tiny.words("dynamics", tmp_path, engine__zero=zero, loop__save_every=3)
    running = launcher.start(*words, ranks=2, before=POISON.format(poison=POISONS[what]))
    assert running.codes() == [2, 2], running.said()
    for rank in running.ranks:
        assert f"the {what} is " in rank.said()
        assert "at step 4, samples 12 to 15; the update was not made" in rank.said()
    assert last_checkpoint(tmp_path).step == 3 and curve(tmp_path)[-1]["step"] == 3


# Weights at the start, after a good update, and after a gradient that is not finite on rank 1 alone.
UPDATES = """
import math, torch
from pathlib import Path
from safetensors.torch import load_file
from whale.engine import EngineConfig, open_engine
from whale.optim import OptimConfig
from whale.ranks import join

class Objective(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(3, 5)
    def forward(self, value):
        return self.model(torch.full((1, 3), value)).sum(), {{}}

with join("cpu", Path("run")) as here:
    torch.manual_seed(0)
    objective, folder = Objective(), Path({folder!r})
    config = EngineConfig(device="cpu", zero={zero}, precision={precision!r})
    engine = open_engine(config, objective, objective.model, OptimConfig(name="adamw"), 2, here)
    weights = []
    for number, value in enumerate((None, 1.0, math.inf if here.rank else 1.0)):
        if value is not None:
            engine.accumulate(True, value)
            assert math.isfinite(engine.step(1.0)) == (number == 1)
        target = folder / str(number)
        target.mkdir(exist_ok=True)
        torch.distributed.barrier()
        engine.snapshot(target)()
        weights.append(load_file(target / "model.safetensors") if here.is_main else {{}})
    assert not any(weights[1][name].equal(value) for name, value in weights[0].items())
    assert all(weights[2][name].equal(value) for name, value in weights[1].items())
sys.exit()
"""


@pytest.mark.parametrize(("zero", "precision"), [
    (None, "fp32"), (0, "fp32"), (1, "bf16"), (2, "fp32"), (3, "fp32"),
    *(pytest.param(zero, precision, marks=pytest.mark.slow)
      for zero, precision in [(None, "bf16"), (0, "bf16"), (1, "fp32"), (2, "bf16"), (3, "bf16")]),
])  # fmt: skip
def test_no_update_is_made_of_what_is_not_finite(launcher, tmp_path, zero, precision):
    before = UPDATES.format(folder=str(tmp_path), zero=zero, precision=precision)
    launcher.run(ranks=2, before=before)


@pytest.mark.parametrize(("settings", "before", "problem", "remedy"), [
    ({"optim__name": "muon"}, "", "optim.name is muon", "set optim.name=adamw, or engine.zero=null"),
    ({}, "sys.modules['deepspeed'] = None", "DeepSpeed is not installed", "pip install 'whale[deepspeed]'"),
])  # fmt: skip
def test_refused_before_training(tiny, launcher, tmp_path, settings, before, problem, remedy):
    running = launcher.start(*tiny.words("dynamics", tmp_path, engine__zero=1, **settings), before=before)
    assert running.codes() == [2], running.said()
    assert problem in running.said() and remedy in running.said().partition("remedy: ")[2]


@pytest.mark.parametrize("settings", [{"data__batch": 3}, {"data__batch": 4, "engine__micro_batch": 3}])
def test_a_batch_that_the_processes_do_not_divide(tiny, launcher, tmp_path, settings):
    running = launcher.start(*tiny.words("dynamics", tmp_path, **settings), ranks=2)
    assert set(running.codes()) <= {2, 3} and 2 in running.codes()
    assert f"a global batch of {settings['data__batch']} clips does not divide by 2" in running.said()


class Harmful:
    """Pickled, it asks the reader to make a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def plant(checkpoint: Path, mark: Path, as_torch: bool) -> None:
    """Harmful pickles in place of every file of DeepSpeed's, with the hashes put right."""
    hashes = json.loads((checkpoint / COMPLETE).read_text())
    for path in (checkpoint / "zero").rglob("*.pt"):
        if as_torch:
            torch.save({"module": Harmful(mark), "optimizer_state_dict": Harmful(mark)}, path)
        else:
            path.write_bytes(pickle.dumps(Harmful(mark)))
        hashes[path.relative_to(checkpoint).as_posix()] = sha256_file(path)
    (checkpoint / COMPLETE).write_text(json.dumps(hashes))


@pytest.fixture(scope="module")
def stopped(tiny, launcher, tmp_path_factory) -> Path:
    """A run under ZeRO 1 that was stopped."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    running = launcher.start(*tiny.words("dynamics", run, engine__zero=1), pause_at=2)
    running.until_paused()
    running.send(signal.SIGTERM)
    assert running.go_on().codes() == [75]
    return run


@pytest.mark.parametrize("as_torch", [True, False], ids=["torch", "pickle"])
@pytest.mark.parametrize("zero", [1, 2], ids=["same layout", "resharded"])
def test_a_checkpoint_that_asks_for_code_is_refused(tiny, launcher, stopped, tmp_path, zero, as_torch):
    run, mark = tmp_path / "run", tmp_path / "harmed"
    shutil.copytree(stopped, run)
    (run / "config.yaml").unlink()  # it names the folder that was copied
    plant(last_checkpoint(run).folder, mark, as_torch)
    running = launcher.start(*tiny.words("dynamics", run, engine__zero=zero, engine__reshard=True))
    assert running.codes() == [2], running.said()
    assert not mark.exists()
    assert str(last_checkpoint(run).folder) in running.said()


def test_a_changed_model_is_refused_and_the_original_goes_on(tiny, launcher, train, stopped):
    changed = tiny.words("dynamics", stopped, engine__zero=1, dynamics__width=24)
    running = launcher.start(*changed)
    assert running.codes() == [2] and "dynamics.width: 16 -> 24" in running.said()
    (stopped / "config.yaml").unlink()  # even where the record of the configuration is lost
    running = launcher.start(*changed)
    assert running.codes() == [2], running.said()
    assert "do not fit the model" in running.said()
    (stopped / "config.yaml").unlink()
    launcher.run(*tiny.words("dynamics", stopped, engine__zero=1))
    assert bits(stopped) == bits(train("dynamics", 1, engine__zero=1))


def test_two_jobs_on_one_run_folder(tiny, launcher, tmp_path):
    words = tiny.words("dynamics", tmp_path, engine__zero=1)
    first = launcher.start(*words, pause_at=2)
    first.until_paused()
    second = launcher.start(*words)
    assert second.codes() == [2]
    assert f"{tmp_path} is in use by process {first[0].pid} on" in second[0].said()
    first.go_on().succeed()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_deepspeeds_own_configuration_follows_from_ours(zero, precision):
    rendered = render(EngineConfig(zero=zero, precision=precision, device="cpu"), 0.5, 24, 3, 4)
    assert rendered["train_batch_size"] == 24 and rendered["train_micro_batch_size_per_gpu"] == 2
    assert rendered["gradient_accumulation_steps"] == 3 and rendered["gradient_clipping"] == 0.5
    assert rendered["zero_optimization"]["stage"] == zero
    assert ("bf16" in rendered) == (precision == "bf16" and zero > 0)
