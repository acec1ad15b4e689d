"""What the engine does with a model besides stepping: recomputation, compilation, averages, precision."""

import math

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from whale.engine import EngineConfig, on_device, open_engine
from whale.models.st_transformer import SpatialTemporalTransformer
from whale.optim import OptimConfig
from whale.ranks import Ranks

X = torch.randn(2, 5, 9, 16, generator=torch.Generator().manual_seed(0))


class Objective(torch.nn.Module):
    """A transformer that learns to return its input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = SpatialTemporalTransformer(16, 2, 2, 3)
        self.passes = 0
        self.model.blocks[0].register_forward_pre_hook(self._count)

    def _count(self, *_) -> None:
        self.passes += 1

    def forward(self, factor: float) -> tuple[torch.Tensor, dict]:
        return (self.model(X) * factor - X).square().mean(), {}

    def validate(self) -> dict:
        product = self.model.blocks[0].mlp.out(torch.ones(1, self.model.blocks[0].mlp.out.in_features))
        return {"weights": [p.clone() for p in self.model.parameters()], "dtype": product.dtype}


@pytest.fixture(autouse=True)
def own_precision():
    """Accelerate keeps one precision for a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def engine_of(objective, optim=None, **settings):
    config = EngineConfig(device="cpu", **settings)
    return open_engine(config, objective, objective.model, optim or OptimConfig(warmup_steps=1), 1, Ranks())


def train(steps=3, **settings):
    objective = Objective()
    engine = engine_of(objective, **settings)
    losses = []
    for _ in range(steps):
        losses.append(engine.accumulate(True, 1.0)[0].item())
        engine.step(1.0)
    return objective, losses


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputation_changes_nothing_but_the_number_of_passes(precision):
    plain, losses = train(precision=precision)
    AcceleratorState._reset_state(reset_partial_state=True)
    again, same = train(precision=precision, recompute=True)
    assert losses == same and (plain.passes, again.passes) == (3, 6)
    assert all(a.equal(b) for a, b in zip(plain.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_what_is_not_finite_reaches_neither_weights_nor_average(name, factor):
    objective = Objective()
    engine = engine_of(objective, OptimConfig(name=name, ema_decay=0.5, warmup_steps=1))
    engine.accumulate(True, 1.0)
    assert math.isfinite(engine.step(1.0))
    trained, average = [p.clone() for p in objective.model.parameters()], engine.validate()["weights"]
    assert not any(a.equal(b) for a, b in zip(trained, average, strict=True))
    engine.accumulate(True, factor)
    assert not math.isfinite(engine.step(1.0))
    assert all(a.equal(b) for a, b in zip(trained, objective.model.parameters(), strict=True))
    assert all(a.equal(b) for a, b in zip(average, engine.validate()["weights"], strict=True))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_validation_runs_in_the_precision_of_training(precision, dtype):
    assert engine_of(Objective(), precision=precision).validate()["dtype"] == dtype


def test_positions_stay_where_noise_is_drawn():
    moved = on_device({"position": torch.arange(2), "tokens": torch.arange(2)}, torch.device("meta"))
    assert moved["position"].device.type == "cpu" and moved["tokens"].device.type == "meta"


def test_memory_of_a_snapshot_is_used_again(tmp_path):
    objective = Objective()
    engine = engine_of(objective, OptimConfig(ema_decay=0.5))
    addresses = []
    for number in range(3):
        engine.accumulate(True, 1.0)
        engine.step(1.0)
        folder = tmp_path / str(number)
        folder.mkdir()
        engine.snapshot(folder)()
        addresses.append([buffer.data_ptr() for buffer in engine._copies._buffers])
    assert addresses[0] == addresses[1] == addresses[2]
    files = [sorted(path.name for path in (tmp_path / number).iterdir()) for number in "012"]
    assert files == [["model.safetensors", "model_ema.safetensors", "optimizer.safetensors"]] * 3
