"""A cached rollout equals the banded recompute of the whole history, token for token, at any length."""

import pickle

import numpy as np
import pytest
import torch
from tiny_model import CARD, random_model, randomise

from whale.errors import UserError
from whale.models.dynamics import DynamicsConfig
from whale.models.frame_cache import FrameCache
from whale.models.tokenizer import TokenizerConfig
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.objectives.clip_noise import ClipNoise
from whale.rollout import Imagination
from whale.sampling import Sampling, expected_tokens
from whale.uncertainty import Retracing, uncertainty


def context(model, batch, frames, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (batch, frames, 16, 16, 3), np.uint8)
    return images, rng.uniform(-0.05, 0.05, (batch, frames - 1, 7)).astype(np.float32)


def recompute(model, tokens_BTS, actions_BTA, keep=None):
    """Prediction after the last frame from the whole history at once, without a cache."""
    batch, frames = tokens_BTS.shape[:2]
    constant = model.action_inputs("tabletop", batch, 0.2)
    mask = constant["actuated"].expand(batch, frames, 7)
    scaled = torch.from_numpy(CARD.scale.scale(actions_BTA)).double()
    inputs = {**constant, "actions": scaled * mask, "action_mask": mask}
    features = model.action_features(inputs)
    prior = model.prior(model.behavior.summary(model.codes(tokens_BTS)), features)
    return model.predict(tokens_BTS, features, prior.mean, inputs, keep=keep)


@pytest.mark.parametrize(("band", "batch", "num_context"), [(1, 1, 1), (2, 3, 4), (3, 2, 2), (5, 1, 3)])
def test_cached_rollout_equals_recompute(band, batch, num_context):
    model = random_model(band=band, seed=band)
    images, actions = context(model, batch, num_context)
    history = torch.from_numpy(model.encode(images.reshape(-1, 16, 16, 3)).reshape(batch, num_context, -1))
    imagination = Imagination(model, images, actions, "tabletop", 0.2)
    rng = np.random.default_rng(1)
    for _ in range(12):  # well beyond the band
        action = rng.uniform(-0.05, 0.05, (batch, 7)).astype(np.float32)
        step = imagination.step(action)
        actions = np.concatenate([actions, action[:, None]], 1)
        expected = recompute(model, history, actions)
        tokens = expected_tokens(expected.logits_BTSV[:, -1], model.tokenizer)
        assert np.array_equal(step.tokens, tokens.numpy())
        np.testing.assert_allclose(step.reward, 0.4 + 0.3 * expected.reward_BT[:, -1].detach().numpy(), rtol=1e-5)
        history = torch.cat([history, tokens[:, None]], 1)
        assert np.array_equal(imagination.frame(), model.decode(history.numpy())[:, -1])


def test_frames_decoded_late_are_the_same_frames():
    model = random_model()
    images, actions = context(model, 2, 3)
    eager, lazy = (Imagination(model, images, actions, "tabletop", 0.2) for _ in range(2))
    for t in range(6):
        action = np.full((2, 7), 0.01 * t, np.float32)
        eager.step(action)
        lazy.step(action)
        eager.frame()
        if t in (1, 2):
            assert np.array_equal(eager.frame(), lazy.frame())
    assert np.array_equal(eager.frame(), lazy.frame())


def test_the_first_frame_shown_is_the_last_of_the_context():
    model = random_model()
    for num_context in (1, 2, 6):
        images, actions = context(model, 2, num_context)
        tokens = model.encode(images.reshape(-1, 16, 16, 3)).reshape(2, num_context, -1)
        shown = Imagination(model, images, actions, "tabletop", 0.2).frame()
        assert np.array_equal(shown, model.decode(tokens)[:, -1])


def test_an_episode_does_not_depend_on_its_batch():
    model = random_model()
    images, actions = context(model, 3, 3)
    action = np.random.default_rng(2).uniform(-0.05, 0.05, (3, 7)).astype(np.float32)
    together = Imagination(model, images, actions, "tabletop", 0.2).step(action)
    for i in range(3):
        alone = Imagination(model, images[i : i + 1], actions[i : i + 1], "tabletop", 0.2).step(action[i : i + 1])
        assert np.array_equal(alone.tokens[0], together.tokens[i])


def act(rng, batch):
    return rng.uniform(-0.05, 0.05, (batch, 7)).astype(np.float32)


def test_other_actions_may_be_asked_about_before_one_is_taken():
    model, rng = random_model(), np.random.default_rng(3)
    images, actions = context(model, 2, 3)
    asked, plain = (Imagination(model, images, actions, "tabletop", 0.2) for _ in range(2))
    for _ in range(5):
        asked.predict(act(rng, 2))
        action = act(rng, 2)
        expected = plain.predict(action)
        found = asked.predict(action)
        assert torch.equal(found.logits_BSV, expected.logits_BSV)
        tokens = torch.from_numpy(rng.integers(0, 32, (2, 16)))
        asked.accept(tokens)
        plain.accept(tokens)


def test_given_tokens_are_followed_like_chosen_ones():
    """Teacher forcing: what is predicted is what the whole recorded history gives."""
    model, rng = random_model(), np.random.default_rng(4)
    images, actions = context(model, 2, 2)
    history = torch.from_numpy(model.encode(images.reshape(-1, 16, 16, 3)).reshape(2, 2, -1))
    imagination = Imagination(model, images, actions, "tabletop", 0.2)
    for _ in range(6):
        action, tokens = act(rng, 2), torch.from_numpy(rng.integers(0, 32, (2, 16)))
        actions = np.concatenate([actions, action[:, None]], 1)
        expected = recompute(model, history, actions).logits_BTSV[:, -1]
        torch.testing.assert_close(imagination.predict(action).logits_BSV, expected)
        imagination.accept(tokens)
        history = torch.cat([history, tokens[:, None]], 1)
    assert np.array_equal(imagination.frame(), model.decode(history.numpy())[:, -1])


def test_rewards_count_while_an_episode_runs():
    """The sum of rewards, each times the probability that no frame before it was terminal."""
    model, rng = random_model(), np.random.default_rng(5)
    images, actions = context(model, 2, 3)
    imagination = Imagination(model, images, actions, "tabletop", 0.2)
    returns, running = np.zeros(2), np.ones(2)
    for _ in range(4):
        step = imagination.step(act(rng, 2))
        returns += running * step.reward
        running *= 1.0 - step.terminated
    np.testing.assert_array_equal(imagination.returns_B, returns)
    np.testing.assert_array_equal(imagination.running_B, running)
    assert (running < 0.9).all() and imagination.num_imagined_B.tolist() == [4, 4]


@pytest.mark.parametrize("sampling", [None, Sampling(1.0, [7, 8])])
def test_a_fork_goes_on_as_its_episode_would_and_leaves_it_as_it_was(sampling):
    model, rng = random_model(), np.random.default_rng(6)
    images, actions = context(model, 2, 3)
    plain, forked = (Imagination(model, images, actions, "tabletop", 0.2, sampling) for _ in range(2))
    first = [act(rng, 2) for _ in range(2)]
    for action in first:
        plain.step(action)
        forked.step(action)
    copies = forked.fork(3)
    assert np.array_equal(copies.frame(), forked.frame().repeat(3, 0))
    ways = rng.uniform(-0.05, 0.05, (4, 2, 3, 7)).astype(np.float32)
    found = [copies.step(way.reshape(6, 7)).tokens for way in ways]
    for way, tokens in zip(ways, found, strict=True):
        expected = plain.step(way[:, 1]).tokens
        assert np.array_equal(tokens.reshape(2, 3, -1)[:, 1], expected)
        assert np.array_equal(forked.step(way[:, 1]).tokens, expected)
    assert not torch.equal(copies.logits_BSV[0], copies.logits_BSV[1])
    np.testing.assert_allclose(copies.returns_B.reshape(2, 3)[:, 1], plain.returns_B)


@pytest.mark.parametrize("sampling", [None, Sampling(1.0, [7, 8, 9])])
def test_rows_restart_and_the_others_do_not_notice(sampling):
    """At other times, with contexts of other lengths; as a new imagination of those rows, and the others to the bit."""
    model, rng = random_model(), np.random.default_rng(7)
    images, actions = context(model, 3, 3)
    disturbed, plain = (
        Imagination(model, images, actions, "tabletop", 0.2, sampling, Retracing(steps=(0, 1))) for _ in range(2)
    )
    for _ in range(5):
        action = act(rng, 3)
        disturbed.step(action)
        plain.step(action)
    disturbed.frame()
    new_images, new_actions = context(model, 2, 2, seed=9)
    seeds = None if sampling is None else [70, 90]
    again = None if sampling is None else Sampling(1.0, [70, 90])
    disturbed.restart([0, 2], new_images, new_actions, seeds)
    fresh = Imagination(model, new_images, new_actions, "tabletop", 0.2, again, Retracing(steps=(0, 1)))
    for _ in range(6):
        assert np.array_equal(disturbed.frame()[[0, 2]], fresh.frame())
        action = act(rng, 3)
        found, same, new = disturbed.step(action), plain.step(action), fresh.step(action[[0, 2]])
        assert torch.equal(disturbed.logits_BSV[1], plain.logits_BSV[1])
        torch.testing.assert_close(disturbed.logits_BSV[[0, 2]], fresh.logits_BSV)
        assert np.array_equal(found.tokens, np.stack([new.tokens[0], same.tokens[1], new.tokens[1]]))
        for ours, theirs in zip(found.uncertainty, new.uncertainty, strict=True):
            torch.testing.assert_close(ours[[0, 2]], theirs)
    np.testing.assert_allclose(disturbed.returns_B, [fresh.returns_B[0], plain.returns_B[1], fresh.returns_B[1]])
    assert disturbed.num_imagined_B.tolist() == [6, 11, 6]


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("num_context", [1, 3])
def test_a_row_may_restart_from_one_frame_and_before_any_step(steps, num_context):
    model, rng = random_model(), np.random.default_rng(10)
    imagination = Imagination(model, *context(model, 2, num_context), "tabletop", 0.2)
    for _ in range(steps):
        imagination.step(act(rng, 2))
    new = context(model, 1, 4 - num_context, seed=9)
    imagination.restart([1], *new)
    fresh = Imagination(model, *new, "tabletop", 0.2)
    for _ in range(5):
        action = act(rng, 2)
        assert np.array_equal(imagination.step(action).tokens[1], fresh.step(action[1:]).tokens[0])
        assert np.array_equal(imagination.frame()[1], fresh.frame()[0])


@pytest.mark.parametrize("seen", [False, True])
def test_the_frames_of_others_stream_on_when_rows_restart(monkeypatch, seen):
    """Decoded anew from a window, they could differ in a last bit, and cost R frames."""
    model, rng = random_model(), np.random.default_rng(11)
    imagination = Imagination(model, *context(model, 3, 3), "tabletop", 0.2)
    shown = imagination.frame()
    imagination.step(act(rng, 3))
    if seen:
        shown = imagination.frame()
    before, windows, window = shown.copy(), [], FrameCache.window
    monkeypatch.setattr(FrameCache, "window", lambda cache, at: windows.append(len(at)) or window(cache, at))
    new = context(model, 1, 2, seed=9)
    imagination.restart([1], *new)
    fresh = Imagination(model, *new, "tabletop", 0.2)
    for _ in range(4):
        tokens = imagination._recent_BRS[[0, 2]]
        assert np.array_equal(imagination.frame()[[0, 2]], model.decode(tokens.numpy())[:, -1])
        assert np.array_equal(imagination.frame()[1], fresh.frame()[0])
        action = act(rng, 3)
        imagination.step(action)
        fresh.step(action[1:2])
    assert windows == [1, 1] and np.array_equal(shown, before)


def retraced(model, tokens_BTS, actions_BTA, steps):
    """Each prediction of retracing from the whole history, shortened and with a merged last action: no cache."""
    batch, frames = tokens_BTS.shape[:2]
    constant = model.action_inputs("tabletop", batch, 0.2)

    def features(actions):
        mask = constant["actuated"].expand(actions.shape)
        scaled = torch.from_numpy(CARD.scale.scale(actions)).double()
        return model.action_features({**constant, "actions": scaled * mask, "action_mask": mask})

    z_BTZ = model.prior(model.behavior.summary(model.codes(tokens_BTS)), features(actions_BTA)).mean
    found = []
    for k in steps:
        merged = actions_BTA[:, frames - 1 - k :].copy()
        merged[:, :, :3] = merged[:, :, :3].sum(1, keepdims=True)  # what moves, moves in all; the last gripper counts
        merged[:, :, 3:6] = 0 if k else merged[:, :, 3:6]  # rotations are fixed in this dataset
        actions = np.concatenate([actions_BTA[:, : frames - 1 - k], merged[:, -1:]], 1)
        z = torch.cat([z_BTZ[:, : frames - 1 - k], z_BTZ[:, -1:]], 1)
        out = model.predict(tokens_BTS[:, : frames - k], features(actions), z, constant)
        found.append(out.logits_BTSV[:, -1])
    return torch.stack(found, 1)


@pytest.mark.parametrize(("band", "steps", "num_context"), [(1, (0, 1), 2), (3, (0, 1, 2), 3), (5, (0, 3), 4)])
def test_retracing_equals_its_definition(band, steps, num_context):
    """And the ordinary prediction does not notice; only every second frame is retraced."""
    model, rng = random_model(band=band, seed=band), np.random.default_rng(8)
    images, actions = context(model, 2, num_context)
    actions[..., 3:6] = 0
    history = torch.from_numpy(model.encode(images.reshape(-1, 16, 16, 3)).reshape(2, num_context, -1))
    plain = Imagination(model, images, actions, "tabletop", 0.2)
    imagination = Imagination(model, images, actions, "tabletop", 0.2, retracing=Retracing(steps=steps, every=2))
    for t in range(10):
        action = act(rng, 2)
        actions = np.concatenate([actions, action[:, None]], 1)
        step = imagination.step(action)
        assert np.array_equal(step.tokens, plain.step(action).tokens)
        torch.testing.assert_close(imagination.logits_BSV, plain.logits_BSV)
        assert (step.uncertainty is None) == (t % 2 == 1)
        if step.uncertainty is not None:
            expected = uncertainty(retraced(model, history, actions, steps))
            for ours, theirs in zip(step.uncertainty, expected, strict=True):
                torch.testing.assert_close(ours, theirs)
        history = torch.cat([history, torch.from_numpy(step.tokens)[:, None]], 1)


def test_one_dropout_mask_holds_for_a_rollout_and_its_forks():
    model, rng = random_model(dropout=0.3), np.random.default_rng(9)
    images, actions = context(model, 2, 4)
    keep = model.dynamics.draw_keep(ClipNoise(0, 0, torch.arange(2)).uniform)
    history = torch.from_numpy(model.encode(images.reshape(-1, 16, 16, 3)).reshape(2, 4, -1))
    imagination = Imagination(model, images, actions, "tabletop", 0.2, keep=keep)
    for t in range(6):
        if t == 3:
            imagination, keep = imagination.fork(2), keep.repeat_interleave(2, 2)
            history, actions = history.repeat_interleave(2, 0), actions.repeat(2, 0)
        action = act(rng, len(actions))
        actions = np.concatenate([actions, action[:, None]], 1)
        step = imagination.step(action)
        torch.testing.assert_close(imagination.logits_BSV, recompute(model, history, actions, keep).logits_BTSV[:, -1])
        history = torch.cat([history, torch.from_numpy(step.tokens)[:, None]], 1)


def test_nothing_grows_with_the_length_of_a_rollout():
    model = random_model()
    images, actions = context(model, 1, 3)
    imagination = Imagination(model, images, actions, "tabletop", 0.2, retracing=Retracing())

    def size():
        return len(
            pickle.dumps({k: v for k, v in vars(imagination).items() if k not in ("model", "_choice", "_rollout")})
        )

    sizes = []
    for _ in range(30):
        imagination.step(np.zeros((1, 7), np.float32))
        caches = (imagination._rollout.dynamics, imagination._rollout.prior)
        sizes.append(size() + sum(x.numel() for cache in caches for layer in cache.layers for x in layer))
    assert max(sizes[5:]) <= sizes[4] + 8  # but for a digit of a counter


def test_bad_input_is_refused():
    model = random_model()
    images, actions = context(model, 2, 3)
    with pytest.raises(UserError, match="was not trained on 'bridge_dataset'"):
        Imagination(model, images, actions, "bridge_dataset", 0.2)
    for period in (0, -0.2, float("nan")):
        with pytest.raises(UserError, match=f"control period is {period} s"):
            Imagination(model, images, actions, "tabletop", period)
    with pytest.raises(UserError, match="context actions have shape"):
        Imagination(model, images, actions[:, :1], "tabletop", 0.2)
    imagination = Imagination(model, images, actions, "tabletop", 0.2)
    with pytest.raises(UserError, match="finite canonical actions"):
        imagination.step(np.full((2, 7), np.nan, np.float32))
    with pytest.raises(UserError, match="finite canonical actions"):
        imagination.step(np.zeros((2, 6), np.float32))
    with pytest.raises(UserError, match=r"action dy is 28.65 \(episode 1\).*between -0.05 and 0.05"):
        imagination.step(np.array([[0] * 7, [0, 28.65, 0, 0, 0, 0, 0]], np.float32))
    imagination.step(np.array([[0.2, -0.4, 0, 9, 0, 0, 1]] * 2, np.float32))  # bold, and fixed dimensions count nothing
    with pytest.raises(UserError, match="retracing goes 3 frames back, and the context has 3"):
        Imagination(model, images, actions, "tabletop", 0.2, retracing=Retracing(steps=(0, 3)))
    with pytest.raises(UserError, match=r"context frames are uint8 \(2, 3, 16, 16\)"):
        Imagination(model, images[..., 0], actions, "tabletop", 0.2)
    with pytest.raises(UserError, match="1 seeds for 2 episodes"):
        Imagination(model, images, actions, "tabletop", 0.2, Sampling(1.0, [0]))
    with pytest.raises(UserError, match="top_k 0"):
        Imagination(model, images, actions, "tabletop", 0.2, Sampling(1.0, [0, 1], top_k=0))
    sparse = Imagination(model, images, actions, "tabletop", 0.2, retracing=Retracing(every=2))
    with pytest.raises(UserError, match="out of step"):
        sparse.restart([0], images[:1], actions[:1])


def test_what_cannot_restart_is_refused_and_changes_nothing():
    model, rng = random_model(), np.random.default_rng(12)
    images, actions = context(model, 2, 3)
    sampling = Sampling(1.0, [7, 8])
    asked, plain = (Imagination(model, images, actions, "tabletop", 0.2, sampling) for _ in range(2))
    new = context(model, 2, 2, seed=9)
    for rows in ([0], [0, 0], [0, 2], [-1, 0]):
        with pytest.raises(UserError, match=r"rows \[.*\] of 2 restart with 2 contexts"):
            asked.restart(rows, *new)
    with pytest.raises(UserError, match="1 seeds for 2 episodes"):
        asked.restart([0, 1], *new, [70])
    with pytest.raises(UserError, match="context actions have shape"):
        asked.restart([0, 1], new[0], actions, [70, 80])
    for _ in range(4):
        action = act(rng, 2)
        assert np.array_equal(asked.step(action).tokens, plain.step(action).tokens)
        assert np.array_equal(asked.frame(), plain.frame())
    with pytest.raises(UserError, match="nothing is drawn"):
        Imagination(model, images, actions, "tabletop", 0.2).restart([0, 1], *new, [70, 80])


def test_a_frame_is_accepted_once_and_where_it_was_predicted():
    model, rng = random_model(), np.random.default_rng(13)
    images, actions = context(model, 2, 3)
    imagination = Imagination(model, images, actions, "tabletop", 0.2)
    tokens = torch.zeros(2, 16, dtype=torch.int64)

    def refuses(one, tokens):
        with pytest.raises(RuntimeError, match="predict the next frame"):
            one.accept(tokens)

    refuses(imagination, tokens)
    imagination.predict(act(rng, 2))
    refuses(imagination.fork(2), tokens.repeat(2, 1))
    imagination.accept(tokens)
    refuses(imagination, tokens)
    imagination.predict(act(rng, 2))
    imagination.restart([1], images[:1], actions[:1])
    refuses(imagination, tokens)
    assert imagination.num_imagined_B.tolist() == [1, 0]


def imagine_sampled(model, images, actions, seeds, steps=4, temperature=1.0):
    """Tokens [B, steps, S] of a sampled rollout with the same action at every step."""
    imagination = Imagination(model, images, actions, "tabletop", 0.2, Sampling(temperature, seeds))
    action = np.full((len(images), 7), 0.02, np.float32)
    return np.stack([imagination.step(action).tokens for _ in range(steps)], 1)


def test_a_seed_decides_what_an_episode_dreams_whatever_its_batch():
    model = random_model()
    images, actions = context(model, 3, 3)
    together = imagine_sampled(model, images, actions, [5, 6, 7])
    for i, seed in enumerate((5, 6, 7)):
        alone = imagine_sampled(model, images[i : i + 1], actions[i : i + 1], [seed])
        assert np.array_equal(alone[0], together[i])
    twice = imagine_sampled(model, images[[0, 0]], actions[[0, 0]], [5, 6])
    assert np.array_equal(twice[0], together[0])
    assert not np.array_equal(twice[1], together[0])


@pytest.mark.usefixtures("known_cpu")
def test_in_float32_one_thread_gives_an_episode_the_same_bits_in_every_batch():
    """Batches of 1, 2, 3 and 6, with the sizes of the tabletop's model: libraries choose their kernels by size."""
    config = WorldModelConfig(
        tokenizer=TokenizerConfig(image_px=64, patch_px=8), dynamics=DynamicsConfig(), datasets={"tabletop": CARD}
    )
    torch.manual_seed(0)
    model = WorldModel(config).eval()
    randomise(model)
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 64, 64, 3), np.uint8)
    actions = np.random.default_rng(1).uniform(-0.05, 0.05, (6, 5, 7)).astype(np.float32)
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for size in (1, 2, 3, 6):
            logits = []
            for rows in np.split(np.arange(6), 6 // size):
                sampling = Sampling(1.0, rows.tolist())
                one = Imagination(model, images[rows], actions[rows, :2], "tabletop", 0.2, sampling)
                for t in range(2, 5):
                    one.step(actions[rows, t])
                logits.append(one.logits_BSV)
            found.append(torch.cat(logits))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other, found[0]) for other in found[1:])


@pytest.mark.parametrize("how", [Sampling(1e-6, [0, 1]), Sampling(0, [0, 1]), Sampling(1.0, [0, 1], top_k=1)])
def test_a_cold_sample_is_the_most_likely_token_and_logits_are_those_of_the_step(how):
    model = random_model()
    images, actions = context(model, 2, 3)
    imagination = Imagination(model, images, actions, "tabletop", 0.2, how)
    for _ in range(3):
        tokens = imagination.step(np.full((2, 7), 0.02, np.float32)).tokens
        assert np.array_equal(tokens, imagination.logits_BSV.argmax(-1).numpy())


def test_the_dynamics_transformer_may_be_in_bfloat16():
    """All else stays in float32; so does the cache in the type of its layers."""
    model, rng = random_model().float(), np.random.default_rng(11)
    images, actions = context(model, 2, 3)
    exact = Imagination(model, images, actions, "tabletop", 0.2, retracing=Retracing())
    action = act(rng, 2)
    expected = exact.predict(action)
    model.dynamics.transformer.to(torch.bfloat16)
    imagination = Imagination(model, images, actions, "tabletop", 0.2, retracing=Retracing())
    found = imagination.predict(action)
    assert found.logits_BSV.dtype == torch.float32
    assert {x.dtype for layer in imagination._rollout.dynamics.layers for x in layer} == {torch.bfloat16}
    torch.testing.assert_close(found.logits_BSV, expected.logits_BSV, atol=0.05 * expected.logits_BSV.std(), rtol=0.05)
    imagination.accept(exact.logits_BSV.argmax(-1))
    assert imagination.step(action).uncertainty.mean.isfinite().all() and imagination.frame().shape == (2, 16, 16, 3)


def test_any_frame_comes_from_its_last_token_frames():
    model = random_model()
    images, actions = context(model, 2, 4)
    imagination = Imagination(model, images, actions, "tabletop", 0.2)
    history = [model.encode(images[:, t]) for t in range(4)]
    shown = []
    for t in range(7):
        history.append(imagination.step(np.full((2, 7), 0.01 * t, np.float32)).tokens)
        shown.append(imagination.frame())
    tokens, seen = np.stack(history, 1), model.config.tokenizer.decoder_frames
    for t, frame in enumerate(shown, 4):
        assert np.array_equal(model.decode(tokens[:, t - seen + 1 : t + 1])[:, -1], frame)
