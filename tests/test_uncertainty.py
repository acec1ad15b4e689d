"""Retracing where the truth is known: exactly zero on a perfect model, rising with error, and what it does not see."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_world import CODES, TOKENS, WORLD, KnownWorld, draw_actions, moved, perfect, record
from scipy.special import rel_entr

from whale.actions import accumulate
from whale.config import build_config
from whale.errors import UserError
from whale.rollout import Imagination
from whale.sampling import Sampling
from whale.uncertainty import Retracing, merged_actions, uncertainty

generators = st.integers(0, 10_000).map(np.random.default_rng)


def retrace(model, rng, retracing=None, steps=6, batch=2):
    """Uncertainties of a greedy rollout after four recorded frames, its tokens [B, steps, S], and the true ones."""
    actions = draw_actions(rng, batch, 3 + steps)
    frames, truth = record(rng, actions, model.frame)
    imagination = Imagination(
        model, frames[:, :4], actions[:, :3], "world", 0.2, Sampling(0.0, range(batch)),
        retracing=retracing or Retracing(),
    )  # fmt: skip
    told = [imagination.step(actions[:, 3 + t]) for t in range(steps)]
    return [step.uncertainty for step in told], np.stack([step.tokens for step in told], 1), truth[:, 4:]


@settings(max_examples=25)
@given(rng=generators, steps=st.sampled_from([(0, 1), (0, 2), (0, 1, 2, 3)]), frame=st.sampled_from(["base", "tool"]))
def test_a_perfect_model_contradicts_itself_nowhere(rng, steps, frame):
    told, tokens, truth = retrace(KnownWorld(perfect, frame), rng, Retracing(steps=steps))
    assert np.array_equal(tokens, truth)
    for u in told:
        assert (u.divergence_BS == 0).all() and (u.mean == 0).all() and (u.top == 0).all() and (u.entropy > 1).all()


def test_the_wrong_frame_of_actions_is_seen():
    def confused(tokens, actions, frame):
        return perfect(tokens, actions, "base")  # of actions that are told, and merged, in the axes of the tool

    told, _, _ = retrace(KnownWorld(confused, "tool"), np.random.default_rng(0))
    assert max(u.top.max() for u in told) > 0.1


def doubtful(size, seed):
    """Believes with probability `size` in a random code, another for each state and action: an unsystematic error."""

    def belief(tokens, actions, frame):
        facts = torch.cat([tokens, actions.round().long()], -1)
        weights = torch.from_numpy(np.random.default_rng(seed).integers(1, 2**31, (facts.shape[-1], TOKENS)))
        wrong = (facts[..., None] * weights).sum(-2) // 7 % (CODES - 1) + 1
        certain, astray = (
            torch.nn.functional.one_hot(code, CODES).double()
            for code in (moved(tokens, actions, frame), (moved(tokens, actions, frame) + wrong) % CODES)
        )
        return (1 - size) * certain + size * astray

    return belief


@pytest.mark.parametrize("seed", range(4))
def test_it_rises_with_injected_error_as_calculated(seed):
    """Both predictions put 1 - e on one code, and e on two others: JS = e log 2 where these two differ."""
    sizes = (0.0, 0.001, 0.01, 0.1, 0.2, 0.4)
    found = [retrace(KnownWorld(doubtful(size, seed)), np.random.default_rng(seed))[0] for size in sizes]
    for t in range(6):
        for field in ("divergence_mean", "divergence_top", "mean", "top"):
            values = [getattr(told[t], field) for told in found]
            assert (values[0] == 0).all() and all((low < high).all() for low, high in pairwise(values))
        for size, told in zip(sizes, found, strict=True):
            assert told[t].divergence_top.numpy() == pytest.approx(size * np.log(2), rel=1e-5)
            astray = (told[t].divergence_BS > 0).double().mean(1).numpy()
            assert told[t].divergence_mean.numpy() == pytest.approx(astray * size * np.log(2), rel=1e-5)


def stretched(tokens, actions, frame):
    return perfect(tokens, actions * torch.tensor([2.0, 2, 2, 1, 1, 1, 1]), frame)


def frozen(tokens, actions, frame):
    return perfect(tokens, torch.cat([actions[..., :6] * 0, tokens[..., 4:5].double()], -1), frame)


@pytest.mark.parametrize("belief", [stretched, frozen])
def test_an_error_that_composes_as_the_world_does_is_seen_on_recorded_frames_only(belief):
    """The first step still looks back at a recorded frame; then the model agrees with itself, and is wrong."""
    told, tokens, truth = retrace(KnownWorld(belief), np.random.default_rng(1))
    assert (told[0].top > 0.1).all()
    assert all((u.divergence_BS == 0).all() for u in told[1:])
    assert (tokens[:, -1] != truth[:, -1]).any(1).all()


def test_an_error_that_all_predictions_share_is_never_seen():
    def painted(tokens, actions, frame):
        probabilities = perfect(tokens, actions, frame).clone()
        probabilities[..., -1, :] = probabilities[..., -1, :].roll(1, -1).fill_(1 / CODES)
        probabilities[..., -1, 7] = 0.9
        return probabilities

    told, tokens, _ = retrace(KnownWorld(painted), np.random.default_rng(2))
    assert (tokens[..., -1] == 7).all() and all((u.divergence_BS == 0).all() for u in told)


def test_what_moves_by_itself_gives_false_alarms():
    """z falls by one a step whatever the robot does, and a merged action does not say how many steps it stands for."""

    def falling(tokens, actions, frame):
        return perfect(tokens, actions - torch.tensor([0.0, 0, 1, 0, 0, 0, 0]), frame)

    told, _, _ = retrace(KnownWorld(falling), np.random.default_rng(3))  # in recorded frames it stood still
    assert all((u.divergence_BS[:, 2] > 0.1).all() and (u.divergence_BS[:, [0, 1, 3]] == 0).all() for u in told[1:])


def test_a_model_that_knows_no_merged_actions_gives_false_alarms():
    """Each single action is within its reach, two as one are not: hence training on merged actions."""

    def short(tokens, actions, frame):
        return perfect(tokens, torch.cat([actions[..., :3].clamp(-3, 3), actions[..., 3:]], -1), frame)

    told, tokens, truth = retrace(KnownWorld(short), np.random.default_rng(4))
    assert np.array_equal(tokens, truth) and max(u.top.max() for u in told) > 0.1


def test_other_frames_than_every_nth_are_not_retraced():
    told, _, _ = retrace(KnownWorld(), np.random.default_rng(0), Retracing(every=3))
    assert [u is not None for u in told] == [True, False, False, True, False, False]


@given(rng=generators, scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_divergence_against_scipy(rng, scale):
    logits = scale * rng.normal(size=(2, 2, 5, 7))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    found = uncertainty(torch.from_numpy(logits))
    expected = rel_entr(p, p.mean(1, keepdims=True)).sum(-1).mean(1)
    np.testing.assert_allclose(found.divergence_BS, expected, rtol=1e-4, atol=1e-12)
    mixture = p.mean(1)
    entropy = -(mixture * np.log(mixture + 1e-300)).sum(-1).mean(-1)
    np.testing.assert_allclose(found.entropy, np.exp(entropy), rtol=1e-5)
    np.testing.assert_allclose(found.mean, expected.mean(1) * np.exp(entropy), rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(found.top, expected.max(1) * np.exp(entropy), rtol=1e-4, atol=1e-12)


@given(rng=generators, dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]), k=st.integers(1, 5))
def test_equal_predictions_have_none_and_none_is_negative(rng, dtype, k):
    logits = torch.from_numpy(10.0 ** rng.uniform(-3, 4) * rng.normal(size=(2, 1, 20, 9))).to(dtype)
    logits[:, :, 0, :3] = -torch.inf
    equal = uncertainty(logits.expand(-1, k, -1, -1))
    assert (equal.divergence_BS == 0).all() and (equal.mean == 0).all() and (equal.top == 0).all()
    near = logits + torch.from_numpy(1e-6 * rng.normal(size=(2, k, 20, 9))).to(dtype)
    assert all((value >= 0).all() and value.isfinite().all() for value in uncertainty(near))
    far = uncertainty(torch.from_numpy(1e3 * rng.normal(size=(2, k, 20, 9))).to(dtype))
    assert (far.divergence_BS <= np.log(k) + 1e-6).all()


def test_the_tenth_of_the_tokens_that_disagree_most():
    """Of thirty tokens two are told apart with certainty, log 2 each, and one by half as much or less."""
    logits = torch.zeros(1, 2, 30, 4)
    logits[0, :, :2] = 1e4 * torch.eye(4)[:2, None].expand(-1, 2, -1)
    found = uncertainty(logits)
    assert found.divergence_top.item() == pytest.approx(np.log(2) * 2 / 3)
    assert found.divergence_mean.item() == pytest.approx(np.log(2) * 2 / 30)
    assert found.entropy.item() == pytest.approx(np.exp((2 * np.log(2) + 28 * np.log(4)) / 30))
    assert all(value.dtype == torch.float32 for value in found)


@given(rng=generators, frame=st.sampled_from(["base", "tool"]))
def test_a_merged_action_ends_where_its_actions_end(rng, frame):
    card = replace(WORLD, action_status=(2,) * 7, action_frame=frame)
    actions = [rng.normal(size=(3, 7)).astype(np.float32) for _ in range(4)]
    merged = merged_actions(card, actions, (0, 1, 3))
    assert merged.shape == (3, 3, 7) and merged.dtype == np.float32
    assert np.array_equal(merged[:, 0], actions[-1])
    for column, back in ((1, 1), (2, 3)):
        for b in range(3):
            one_by_one = accumulate(np.stack([a[b] for a in actions[-1 - back :]]), frame)
            at_once = accumulate(merged[b, column][None], frame)
            for slow, fast in zip(one_by_one, at_once, strict=True):
                np.testing.assert_allclose(fast[-1], slow[-1], atol=1e-5)
        assert np.array_equal(merged[:, column, 6], actions[-1][:, 6])


def test_fixed_dimensions_stay_the_identity():
    rng = np.random.default_rng(0)
    card = replace(WORLD, action_status=(2, 2, 1, 1, 2, 2, 1))
    merged = merged_actions(card, [rng.normal(size=(2, 7)).astype(np.float32) for _ in range(3)], (0, 2))
    assert (merged[:, 1, [2, 3]] == 0).all() and (merged[:, 1, [0, 1, 4, 5]] != 0).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action_type": "joint"}, "has joint actions"),
        ({"action_type": "eef_absolute"}, "has eef_absolute actions"),
        ({"action_type": "planar"}, "has planar actions"),
        ({"action_status": (2, 2, 2, 0, 0, 2, 2)}, "dimensions rx, ry are unknown"),
        ({"action_status": (2, 2, 2, 1, 1, 1, 0)}, "dimensions gripper are unknown"),
        ({"action_frame": "camera"}, "frame 'camera'"),
    ],
)
def test_actions_that_do_not_merge_are_refused_with_the_reason(changes, said):
    actions = [np.zeros((1, 7), np.float32)] * 2
    merged_actions(WORLD, actions, (0, 1))
    with pytest.raises(UserError, match=said) as refused:
        merged_actions(replace(WORLD, **changes), actions, (0, 1))
    assert "without retracing" in str(refused.value)


@pytest.mark.parametrize("values", [{"steps": [1, 2]}, {"steps": [0]}, {"steps": [0, 2, 1]}, {"steps": [0, 1, 1]},
                                    {"steps": [-1, 0]}, {"every": 0}])  # fmt: skip
def test_steps_that_mean_nothing_are_refused(values):
    with pytest.raises(UserError, match=r"steps|every"):
        build_config(Retracing, values, "test")
