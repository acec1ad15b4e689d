import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whale.actions import ACTION_DIM, ACTION_NAMES, ActionScale, ActionStatus

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
