"""A cached rollout equals the banded recompute of the whole history, token for token, at any length."""

import numpy as np
import pytest
import torch
from tiny_model import CARD, random_model

from whale.errors import UserError
from whale.rollout import Imagination
from whale.sampling import Sampling, expected_tokens, sampled_tokens


def context(model, batch, frames, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (batch, frames, 16, 16, 3), np.uint8)
    return images, rng.uniform(-0.05, 0.05, (batch, frames - 1, 7)).astype(np.float32)


def recompute(model, tokens_BTS, actions_BTA):
    """Prediction after the last frame from the whole history at once, without a cache."""
    batch, frames = tokens_BTS.shape[:2]
    constant = model.action_inputs("tabletop", batch, 0.2)
    mask = constant["actuated"].expand(batch, frames, 7)
    scaled = torch.from_numpy(CARD.scale.scale(actions_BTA)).double()
    inputs = {**constant, "actions": scaled * mask, "action_mask": mask}
    features = model.action_features(inputs)
    prior = model.prior(model.behavior.summary(model.codes(tokens_BTS)), features)
    return model.predict(tokens_BTS, features, prior.mean, inputs)


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
    assert np.array_equal(eager.frame(), lazy.frame())


def test_an_episode_does_not_depend_on_its_batch():
    model = random_model()
    images, actions = context(model, 3, 3)
    action = np.random.default_rng(2).uniform(-0.05, 0.05, (3, 7)).astype(np.float32)
    together = Imagination(model, images, actions, "tabletop", 0.2).step(action)
    for i in range(3):
        alone = Imagination(model, images[i : i + 1], actions[i : i + 1], "tabletop", 0.2).step(action[i : i + 1])
        assert np.array_equal(alone.tokens[0], together.tokens[i])


def test_bad_input_is_refused():
    model = random_model()
    images, actions = context(model, 2, 3)
    with pytest.raises(UserError, match="was not trained on 'bridge_dataset'"):
        Imagination(model, images, actions, "bridge_dataset", 0.2)
    with pytest.raises(UserError, match="context actions have shape"):
        Imagination(model, images, actions[:, :1], "tabletop", 0.2)
    imagination = Imagination(model, images, actions, "tabletop", 0.2)
    with pytest.raises(UserError, match="finite canonical actions"):
        imagination.step(np.full((2, 7), np.nan, np.float32))
    with pytest.raises(UserError, match="finite canonical actions"):
        imagination.step(np.zeros((2, 6), np.float32))


def test_expected_tokens_have_the_least_expected_distance():
    model = random_model()
    logits = 2 * torch.randn(3, 16, 32, dtype=torch.float64)
    codebook = model.tokenizer.quantizer.codebook_VC
    distance = torch.cdist(codebook, codebook).square()  # of choosing row v when column w is true
    best = (logits.softmax(-1) @ distance.T).argmin(-1)
    assert torch.equal(expected_tokens(logits, model.tokenizer), best)
    certain = torch.zeros(1, 16, 32, dtype=torch.float64)
    certain[..., 5] = 100.0
    assert (expected_tokens(certain, model.tokenizer) == 5).all()


def test_expected_tokens_are_the_same_under_autocast():
    """Validation runs under it."""
    torch.manual_seed(0)
    model, logits = random_model().float(), 2 * torch.randn(64, 16, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = expected_tokens(logits, model.tokenizer)
    assert torch.equal(found, expected_tokens(logits, model.tokenizer))


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


def test_a_cold_sample_is_the_most_likely_token_and_logits_are_those_of_the_step():
    model = random_model()
    images, actions = context(model, 2, 3)
    imagination = Imagination(model, images, actions, "tabletop", 0.2, Sampling(1e-6, [0, 1]))
    for _ in range(3):
        tokens = imagination.step(np.full((2, 7), 0.02, np.float32)).tokens
        assert np.array_equal(tokens, imagination.logits_BSV.argmax(-1).numpy())


def test_samples_follow_the_distribution():
    """Counts against softmax(logits / 2) by Pearson's chi-square; a token without mass is never drawn."""
    draws, temperature = 20_000, 2.0
    logits_V = torch.tensor([2.0, float("-inf"), 0.0, -1.0, 3.0, float("-inf")], dtype=torch.float64)
    tokens = sampled_tokens(logits_V.expand(1, draws, -1), temperature, [torch.Generator().manual_seed(0)])
    expected = draws * (logits_V / temperature).softmax(-1)
    counts = torch.bincount(tokens[0], minlength=6)
    assert (counts[[1, 5]] == 0).all()
    possible = expected > 0
    statistic = ((counts - expected)[possible].square() / expected[possible]).sum()
    assert statistic < 16.27  # 0.1 % of the chi-square distribution with three degrees of freedom
