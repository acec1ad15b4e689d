"""The comparison of commanded with measured motion, in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation as Turn

from whale.data_prep.audit_actions import _scale
from whale.data_prep.audit_motion import MAX_LAG, fit, unexplained


def motion(seed: int, episodes: int = 6, steps: int = 60) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(0, 0.02, (episodes, steps, 3)))


@given(seed=st.integers(0, 10**6), axes=st.permutations(range(3)), signs=st.tuples(*[st.sampled_from([1, -1])] * 3),
       scale=st.tuples(*[st.floats(0.4, 2.5)] * 3), unit=st.sampled_from([1e-3, 1, 57.3]))
def test_axes_signs_and_scales_are_found_exactly(seed, axes, signs, scale, unit):
    scale = np.array(scale) * unit  # axes alike: one of a tenth of the largest is taken to stand still
    commanded = motion(seed)
    found = fit([(a, a[:, axes] * signs * scale) for a in commanded])
    assert (found.axes, found.signs, found.lag) == (tuple(axes), signs, 0)
    assert found.relabelled == pytest.approx(1)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-6)


@given(seed=st.integers(0, 10**6), degrees=st.floats(1, 179), axis=st.sampled_from(["x", "y", "z"]))
def test_the_angle_of_a_rotation_is_found_and_explains_all(seed, degrees, axis):
    turn = Turn.from_euler(axis, degrees, degrees=True)
    found = fit([(a, turn.apply(a)) for a in motion(seed)])
    assert found.turned_deg == pytest.approx(degrees, abs=1e-4)
    assert found.gain == pytest.approx(0.02 / (0.02 + unexplained((1 + 2 * np.cos(np.radians(degrees))) / 3)), rel=0.5)


@given(seed=st.integers(0, 10**6), lag=st.integers(-MAX_LAG, MAX_LAG))
def test_a_lag_is_found_whatever_the_axes(seed, lag):
    commanded = motion(seed)
    measured = [np.roll(a, lag, 0)[:, [1, 2, 0]] * [1, -1, 1] for a in commanded]
    found = fit(list(zip(commanded, measured, strict=True)))
    assert found.lag == lag
    assert found.axes == (1, 2, 0)


def test_an_axis_that_stands_at_a_limit_has_no_scale():
    """Two axes follow; the third is pushed down from the table's height on, and goes nowhere."""
    pairs = [(a - [0, 0, 0.05], np.column_stack([a[:, :2], np.r_[-0.03, np.zeros(len(a) - 1)]])) for a in motion(5)]
    pairs += [(a, a) for a in motion(6, episodes=1)]
    found = fit(pairs)
    assert found.explained[2] < 0.6 < found.explained[:2].min()
    findings = list(_scale("action", "warning", found))
    assert [(one.severity, one.kind, one.where) for one in findings] == [("info", "action_unrelated", "action, axes z")]


def test_a_glitch_does_not_hide_the_rest():
    pairs = [(a, 2 * a) for a in motion(4)]
    pairs[1][1][7] = 40.0
    np.testing.assert_allclose(fit(pairs).scale, 2, rtol=1e-6)


def test_an_axis_at_rest_is_left_alone_and_others_are_not():
    found = fit([(a * [1, 1, 0], a * [2, -2, 0]) for a in motion(3)])
    assert np.isnan(found.correlation[2])
    assert np.isnan(found.scale[2])
    assert (found.axes[2], found.signs, found.relabelled) == (2, (1, -1, 1), pytest.approx(1))


def test_noise_is_not_taken_for_motion():
    found = fit(list(zip(motion(1), motion(2), strict=True)))
    assert abs(found.agreement) < 0.3
    assert found.lag == 0


@pytest.mark.parametrize("pairs", [
    [], [(np.zeros((4, 3)), np.zeros((4, 3)))], [(np.zeros((90, 3)), np.ones((90, 3)))],
    [(np.full((90, 3), np.nan), np.ones((90, 3)))],
])
def test_nothing_is_said_of_too_little_or_of_no_motion(pairs):
    assert fit(pairs) is None
