import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import tiny_config
from torch import nn

from whale.ema import WeightAverage, averaged
from whale.models.world_model import WorldModel

STEPS = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=40)


@given(STEPS, st.sampled_from([0.0, 0.5, 0.9, 0.999]))
def test_the_average_is_the_weighted_sum_of_all_updates(values, decay):
    live = torch.zeros(3)
    average, expected = WeightAverage([live], decay), 0.0
    for n, value in enumerate(values, start=1):
        live.fill_(value)
        average.update()
        share = min(decay, (1 + n) / (10 + n))
        expected = share * expected + (1 - share) * value
    average.swap()
    assert live.tolist() == pytest.approx([expected] * 3, abs=1e-4)


@given(STEPS)
def test_swapping_twice_changes_nothing(values):
    live = torch.tensor(values)
    average = WeightAverage([live], 0.9)
    live.mul_(1.7)
    average.update()
    before = live.clone()
    average.swap()
    swapped = live.clone()
    average.swap()
    assert live.equal(before)
    average.swap()
    assert live.equal(swapped)


def test_what_stays_as_it_is_stays_to_the_last_bit():
    live = torch.randn(1000)
    average = WeightAverage([live], 0.9)
    for _ in range(50):
        average.update()
    before = live.clone()
    average.swap()
    assert live.equal(before)


def test_trained_weights_and_moving_codebooks_are_averaged():
    model = WorldModel(tiny_config())
    model.tokenizer.requires_grad_(False)
    model.register_buffer("counter", torch.tensor(3))
    names = averaged(model).keys()
    assert "tokenizer.quantizer.codebook_VC" in names
    assert {name for name, value in model.named_parameters() if value.requires_grad} <= names
    assert not any(isinstance(value, nn.Parameter) and not value.requires_grad for value in averaged(model).values())
    assert "counter" not in names
