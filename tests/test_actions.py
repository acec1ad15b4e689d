import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whale.actions import (
    ACTION_DIM,
    ACTION_NAMES,
    ActionScale,
    ActionStatus,
    accumulate,
    as_vectors,
    compose,
    invert,
    merge,
    motions,
)
from whale.rotations import matrix_from_rotvec

finite = st.floats(-100, 100, width=32)
vectors = hnp.arrays(np.float32, ACTION_DIM, elements=finite)


def test_every_dimension_has_a_name():
    assert len(ACTION_NAMES) == len(set(ACTION_NAMES)) == ACTION_DIM


def test_unknown_is_the_status_of_an_untouched_mask():
    assert (np.zeros(ACTION_DIM, np.int64) == ActionStatus.UNKNOWN).all()


@given(vectors, hnp.arrays(np.float32, ACTION_DIM, elements=st.floats(np.float32(0.01), 100, width=32)))
def test_quantiles_go_to_minus_one_and_one(low, span):
    scale = ActionScale(low=tuple(low.tolist()), high=tuple((low + span).tolist()))
    np.testing.assert_allclose(scale.scale(low), -1, atol=0.02)
    np.testing.assert_allclose(scale.scale(low + span), 1, atol=0.02)


def test_actions_beyond_the_quantiles_are_not_clipped():
    scale = ActionScale(low=(-0.05,) * 7, high=(0.05,) * 7)
    np.testing.assert_allclose(scale.scale(np.full(7, 0.5, np.float32)), 10.0, rtol=1e-6)


@given(hnp.arrays(np.float32, (3, ACTION_DIM), elements=finite), vectors)
def test_a_dimension_that_does_not_move_keeps_its_physical_value(actions, at):
    scale = ActionScale(low=tuple(at.tolist()), high=tuple(at.tolist()))
    np.testing.assert_array_equal(scale.scale(actions), actions)


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (0, 7)])
def test_any_leading_shape_gives_float32_of_the_same_shape(shape):
    scale = ActionScale(low=(-1.0, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0), high=(1.0, 2.0, 0.0, 0.5, 0.0, 0.0, 1.0))
    actions = np.random.default_rng(0).normal(size=shape)
    scaled = scale.scale(actions)
    assert scaled.dtype == np.float32 and scaled.shape == shape
    rows = actions.reshape(-1, 7)
    alone = [scale.scale(row) for row in rows]
    np.testing.assert_array_equal(scaled.reshape(-1, 7), np.reshape(alone, (-1, 7)))


frames = pytest.mark.parametrize("frame", ["base", "tool"])


def random_actions(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.8, (*shape, ACTION_DIM))


def as_matrix(action: np.ndarray) -> np.ndarray:
    """A motion in the tool's axes as the 4 x 4 matrix of SE(3)."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = matrix_from_rotvec(action[3:6]), action[:3]
    return matrix


def test_poses_along_an_episode_in_the_axes_of_the_tool_are_products_in_se3():
    actions, pose = random_actions(9), np.eye(4)
    positions, rotations = accumulate(actions, "tool")
    for t, action in enumerate(actions):
        pose = pose @ as_matrix(action)
        np.testing.assert_allclose(positions[t + 1], pose[:3, 3], atol=1e-12)
        np.testing.assert_allclose(rotations[t + 1], pose[:3, :3], atol=1e-12)


def test_in_the_axes_of_the_base_translations_add_and_later_turns_stand_on_the_left():
    actions = random_actions(5)
    positions, rotations = accumulate(actions, "base", (np.array([1.0, 2.0, 3.0]), np.eye(3)))
    np.testing.assert_allclose(positions[-1] - actions[:, :3].sum(0), [1, 2, 3], atol=1e-12)
    turn = np.eye(3)
    for action in actions:
        turn = matrix_from_rotvec(action[3:6]) @ turn
    np.testing.assert_allclose(rotations[-1], turn, atol=1e-12)


@frames
def test_a_motion_and_the_one_that_undoes_it_are_none(frame):
    motion = motions(random_actions(7))
    for both in (compose(motion, invert(motion, frame), frame), compose(invert(motion, frame), motion, frame)):
        np.testing.assert_allclose(as_vectors(both), 0, atol=1e-12)


@frames
def test_how_actions_are_grouped_does_not_matter(frame):
    a, b, c = random_actions(3, 6)
    one = merge([a, b, c], frame)
    np.testing.assert_allclose(merge([merge([a, b], frame), c], frame), one, atol=1e-5)
    np.testing.assert_array_equal(one[:, 6], c[:, 6].astype(np.float32))
    assert one.dtype == np.float32 and np.linalg.norm(one[:, 3:6], axis=-1).max() <= np.pi + 1e-6
