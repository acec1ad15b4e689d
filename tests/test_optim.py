"""Which parameter goes where, and the learning rate of every step."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import tiny_config

from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel
from whale.optim import OptimConfig, build_optimizers, schedule

MODELS = {
    "world model": lambda: WorldModel(tiny_config()),
    "tokenizer": lambda: VideoTokenizer(tiny_config().tokenizer),
    "local encoder": lambda: VideoTokenizer(
        replace(tiny_config().tokenizer, encoder_width=tiny_config().tokenizer.width, encoder_reach=1)
    ),
}
UNDECAYED = ("norm", "bias", "position", "embodiment", "sharpness", "log_std", "outcome.0")


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_every_trainable_parameter_has_one_place(build, name):
    model = build()
    first = next(iter(model.parameters())).requires_grad_(False)
    names = {parameter: key for key, parameter in model.named_parameters()}
    optimizers = build_optimizers(model, OptimConfig(name=name, weight_decay=0.3))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    placed = [parameter for group in groups for parameter in group["params"]]
    assert len(placed) == len(set(placed))
    assert set(placed) == set(model.parameters()) - {first}
    decay = {names[parameter]: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay == {key: 0.0 if any(word in key for word in UNDECAYED) else 0.3 for key in decay}
    by_muon = {names[p] for group in groups if "momentum" in group for p in group["params"]}
    assert bool(by_muon) == (name == "muon")
    assert all("blocks." in key and key.endswith(".weight") and "norm" not in key for key in by_muon)


@pytest.mark.parametrize(("step", "share"), [
    (0, 1 / 30), (14, 0.5), (29, 1), (30, 1), (659, 1), (660, 1), (880, 0.5), (1099, 1 / 440),
])  # fmt: skip
def test_warm_up_stable_decay(step, share):
    assert schedule(step, 1100, OptimConfig()) == share


@pytest.mark.parametrize(("step", "share"), [
    (0, 0.1), (9, 1), (10, 1), (60, 0.55), (110, 0.1), (35, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2),
])  # fmt: skip
def test_cosine(step, share):
    assert schedule(step, 110, OptimConfig(schedule="cosine", warmup_steps=10, floor=0.1)) == pytest.approx(share)


@given(st.integers(1, 300), st.integers(0, 50), st.floats(0, 1), st.sampled_from(["wsd", "cosine"]))
def test_no_schedule_leaves_its_bounds(steps, warmup, floor, kind):
    config = OptimConfig(schedule=kind, warmup_steps=warmup, floor=floor)
    shares = [schedule(step, steps, config) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares if kind == "wsd") and max(shares) <= 1
    after = shares[warmup:]
    assert after == sorted(after, reverse=True)
    assert kind == "wsd" or all(share >= floor - 1e-12 for share in after)


@pytest.mark.parametrize("setting", [{"floor": -0.1}, {"ema_decay": 1.5}, {"decay_fraction": 2.0}])
def test_shares_are_shares(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        OptimConfig(**setting)


def test_the_rate_of_a_group_follows_its_own_peak():
    torch.manual_seed(0)
    optimizers = build_optimizers(MODELS["tokenizer"](), OptimConfig(lr=1e-3, muon_lr=1e-2))
    assert {group["peak_lr"] for optimizer in optimizers for group in optimizer.param_groups} == {1e-3, 1e-2}
