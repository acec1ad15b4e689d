import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whale.clips.mixture import BLOCK, Mixture, block_counts
from whale.errors import UserError


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8))
def test_block_counts_are_the_shares_to_within_one_draw(weights):
    counts = block_counts(weights)
    assert counts.sum() == BLOCK
    assert (np.abs(counts - np.array(weights) / sum(weights) * BLOCK) < 1).all()


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=3), seed=st.integers(0, 99), data=st.data())
def test_every_block_is_exact_and_every_epoch_of_a_source_has_each_clip_once(sizes, seed, data):
    weights = data.draw(st.lists(st.floats(0.1, 1.0), min_size=len(sizes), max_size=len(sizes)))
    mixture = Mixture(sizes, weights, seed)
    drawn = [mixture.at(position) for position in range(2 * BLOCK)]
    for block in (drawn[:BLOCK], drawn[BLOCK:]):
        found = np.bincount([source for source, _ in block], minlength=len(sizes))
        assert found.tolist() == block_counts(weights).tolist()
    for source, size in enumerate(sizes):
        clips = [clip for s, clip in drawn if s == source]
        for epoch in range(len(clips) // size):
            assert sorted(clips[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_one_source_epochs_differ_and_positions_are_random_access():
    mixture = Mixture([50], [3.0], seed=1)
    epochs = [[mixture.at(e * 50 + i)[1] for i in range(50)] for e in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert Mixture([50], [1.0], seed=1).at(10**12) == mixture.at(10**12)
    assert [Mixture([50], [1.0], seed=2).at(i)[1] for i in range(50)] != epochs[0]


def test_useless_weights_are_refused():
    with pytest.raises(UserError, match="not all positive"):
        block_counts([1.0, 0.0])
    with pytest.raises(UserError, match="source 1 less than one draw"):
        block_counts([1.0, 1e-6])
