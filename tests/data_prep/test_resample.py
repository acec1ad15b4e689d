import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whale.actions import accumulate
from whale.clips.clip import ActionType
from whale.data_prep.resample import Numbers, resample, stride_of

frames = st.sampled_from(["base", "tool"])


def random_numbers(length: int, seed: int, turn: float = 0.3) -> Numbers:
    dice = np.random.default_rng(seed)
    actions = np.concatenate([
        dice.normal(0, 0.02, (length, 3)), dice.normal(0, turn, (length, 3)), dice.random((length, 1)),
    ], 1).astype(np.float32)
    steps = np.arange(length)
    return Numbers(
        actions=actions, action_known=steps < length - 1, rewards=dice.random(length).astype(np.float32),
        proprio=steps[:, None].astype(np.float32), is_first=steps == 0, is_last=steps == length - 1,
        is_terminal=(steps == length - 1) & bool(dice.random() < 0.5),
    )


@given(length=st.integers(2, 40), k=st.integers(2, 9), seed=st.integers(0, 99), frame=frames)
def test_the_arm_is_where_it_was_at_every_frame_that_is_kept(length, k, seed, frame):
    numbers = random_numbers(length, seed)
    fewer = resample(numbers, k, frame, ActionType.EEF_DELTA)
    kept = range(0, length, k)
    assert fewer.proprio[:, 0].tolist() == list(kept) and len(fewer.actions) == len(kept)
    assert fewer.action_known.tolist() == [True] * (len(kept) - 1) + [False]
    for now, before in zip(accumulate(fewer.actions[:-1], frame), accumulate(numbers.actions[:-1], frame), strict=True):
        assert np.allclose(now, before[list(kept)], atol=1e-5)
    assert np.array_equal(fewer.actions[:-1, 6], numbers.actions[k - 1 :: k, 6][: len(kept) - 1])


@given(length=st.integers(2, 40), k=st.integers(1, 9), seed=st.integers(0, 99))
def test_nothing_earned_and_no_end_is_lost(length, k, seed):
    numbers = random_numbers(length, seed)
    fewer = resample(numbers, k, "base", ActionType.EEF_DELTA)
    assert math.isclose(fewer.rewards.sum(), numbers.rewards.sum(), rel_tol=1e-5)
    assert [int(flags.sum()) for flags in (fewer.is_first, fewer.is_last)] == [1, 1]
    assert fewer.is_first[0] and fewer.is_last[-1] and fewer.is_terminal.any() == numbers.is_terminal.any()


@given(length=st.integers(2, 9), seed=st.integers(0, 9), frame=frames)
def test_the_rate_of_the_data_changes_no_bit(length, seed, frame):
    numbers = random_numbers(length, seed)
    assert resample(numbers, 1, frame, ActionType.EEF_DELTA) is numbers


def test_joint_differences_are_added():
    numbers = random_numbers(9, 0)
    fewer = resample(numbers, 4, "base", ActionType.JOINT)
    assert np.allclose(fewer.actions[:2, :6], numbers.actions[:8, :6].reshape(2, 4, 6).sum(1), atol=1e-5)
    assert np.array_equal(fewer.actions[:2, 6], numbers.actions[[3, 7], 6])


def test_of_absolute_actions_the_last_is_kept():
    numbers = random_numbers(7, 0)
    assert np.array_equal(resample(numbers, 3, "base", ActionType.EEF_ABSOLUTE).actions[:2], numbers.actions[[2, 5]])


def test_an_unknown_step_makes_the_whole_unknown():
    numbers = random_numbers(7, 0)
    numbers.action_known[4] = False
    assert resample(numbers, 3, "base", ActionType.EEF_DELTA).action_known.tolist() == [True, False, False]


@pytest.mark.parametrize(("period", "target", "k"), [
    (0.05, 0.2, 4), (0.2, 0.2, 1), (1 / 3, 0.2, 1), (0.1, 0.25, 3), (1 / 15, 0.2, 3), (0.08, 0.2, 3), (0.2, 0.3, 2),
    (0.1, None, 1),
])  # fmt: skip
def test_how_many_periods_make_one(period, target, k):
    assert stride_of(period, target) == k
