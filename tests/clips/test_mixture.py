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
    drawn = list(zip(*(values.tolist() for values in mixture.at(np.arange(2 * BLOCK))), strict=True))
    for block in (drawn[:BLOCK], drawn[BLOCK:]):
        found = np.bincount([source for source, _ in block], minlength=len(sizes))
        assert found.tolist() == block_counts(weights).tolist()
    for source, size in enumerate(sizes):
        clips = [clip for s, clip in drawn if s == source]
        for epoch in range(len(clips) // size):
            assert sorted(clips[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_one_source_epochs_differ_and_positions_are_random_access():
    mixture = Mixture([50], [3.0], seed=1)
    epochs = mixture.at(np.arange(150))[1].reshape(3, 50).tolist()
    assert epochs[0] != epochs[1] != epochs[2]
    assert Mixture([50], [1.0], seed=2).at(np.arange(50))[1].tolist() != epochs[0]
    far = np.array([10**12, 7, 10**12 + 1, BLOCK])
    together = mixture.at(far)[1].tolist()
    assert [int(Mixture([50], [1.0], seed=1).at(far[i : i + 1])[1][0]) for i in range(4)] == together


def test_the_order_does_not_change_between_releases():
    sources, clips = Mixture([7, 1000, 1], [1.0, 5.0, 0.1], seed=3).at(np.array([0, 1, 2, 1023, 1024, 99_999, 10**9]))
    assert sources.tolist() == [1, 1, 1, 0, 1, 1, 0] and clips.tolist() == [747, 331, 301, 3, 348, 489, 3]
    assert Mixture([9], [1.0], 3).offset(np.array([0, 5, 10**9]), np.array([3, 100, 7])).tolist() == [0, 0, 2]


def test_useless_weights_are_refused():
    with pytest.raises(UserError, match="not all positive"):
        block_counts([1.0, 0.0])
    with pytest.raises(UserError, match="source 1 less than one draw"):
        block_counts([1.0, 1e-6])
