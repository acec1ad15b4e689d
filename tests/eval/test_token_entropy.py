"""Token cross-entropy on a world of four tokens a frame whose answers are known by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from whale.eval.config import FidelityConfig, TokenEntropyConfig
from whale.eval.episodes import Episodes
from whale.eval.token_entropy import measure_tokens, token_figures
from whale.metrics.token_entropy import fit_mixture, unigram

V, S, CONTEXT, HORIZONS = 6, 4, 2, (1, 3)
TOKENS = TokenEntropyConfig(samples=3)
AT = CONTEXT - 1 + np.array(HORIZONS)


def make_config(**changes):
    sizes = {"context_frames": CONTEXT, "horizons": HORIZONS, "judge_horizon": 3, "batch": 4, "tokens": TOKENS}
    return FidelityConfig(**({"out": "out", "model": "model", "clips": "clips"} | sizes | changes))


def make_episodes(seed, num=10, windows=1):
    """Frames that hold their tokens: at every step a token becomes another in one case of three."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V - 1, (num, 5, S))  # the last code is never seen
    for t in range(1, 5):
        tokens[:, t] = np.where(rng.random((num, S)) < 1 / 3, tokens[:, t], tokens[:, t - 1])
    return Episodes(
        names=[str(n // windows) for n in range(num)], numbers=np.arange(num) // windows, starts=np.zeros(num, int),
        dataset="test", control_period_sec=0.2, action_words="eef_delta actions",
        frames=tokens.astype(np.uint8)[..., None, None],
        actions=np.zeros((num, 5, 7), np.float32), lengths=np.full(num, 5), left_out={},
    )  # fmt: skip


MODEL = SimpleNamespace(encode=lambda frames: frames[..., 0, 0].astype(int), tokenizer=SimpleNamespace(num_codes=V))


class Dream:
    """Expects each frame with logits that are a function of its recorded tokens."""

    def __init__(self, logits, known, context_frames, context_actions, dataset, control_period_sec, sampling):
        assert context_frames.shape[1] == CONTEXT and context_actions.shape[1] == CONTEXT - 1
        assert len(set(sampling.seeds)) == len(context_frames) == len(sampling.seeds)
        self.logits, self.t = logits, CONTEXT
        self.future = np.stack([known[frames.tobytes()] for frames in context_frames])

    def step(self, actions):
        assert actions.shape == (len(self.future), 7)
        true = torch.from_numpy(self.future[:, self.t].astype(int))
        self.logits_BSV = torch.stack([self.logits(row) for row in true])
        self.t += 1


def dreaming(logits, *parts):
    known = {frames[:CONTEXT].tobytes(): frames[..., 0, 0] for part in parts for frames in part.frames}
    return lambda **inputs: Dream(logits, known, **inputs)


def certain(true):
    """Knows the answer."""
    return torch.nn.functional.one_hot(true, V).double() * 1000


def uniform(true):
    return torch.zeros(len(true), V, dtype=torch.float64)


def test_copy_by_hand():
    held_out, train = make_episodes(0), make_episodes(1)
    imagines = {"model": dreaming(uniform, held_out, train)}
    scores = measure_tokens(MODEL, imagines, held_out, train, make_config(), TOKENS)
    u = unigram(train.frames.astype(int), V)
    for k, t in enumerate(AT):
        fitted, tokens = train.frames[..., 0, 0].astype(int), held_out.frames[..., 0, 0].astype(int)
        eps = fit_mixture((fitted[:, t] == fitted[:, 1]).astype(float).ravel(), u[fitted[:, t]].ravel())
        assert scores.eps["copy"][k] == pytest.approx(eps) and 0 < eps < 1
        for n in range(len(held_out)):
            nats = [-np.log((1 - eps) * (tokens[n, t, s] == tokens[n, 1, s]) + eps * u[tokens[n, t, s]])
                    for s in range(S)]  # fmt: skip
            assert scores.nats["copy"][n, k] == pytest.approx(np.mean(nats))


def test_a_model_that_knows_the_answer_pays_nothing_and_one_that_knows_nothing_the_unigram_at_most():
    held_out, train = make_episodes(0), make_episodes(1)
    imagines = {"model": dreaming(certain, held_out, train), "twin": dreaming(uniform, held_out, train)}
    scores = measure_tokens(MODEL, imagines, held_out, train, make_config(), TOKENS)
    np.testing.assert_allclose(scores.nats["model"], 0, atol=1e-9)
    assert scores.eps["twin"] == pytest.approx([1, 1])  # the unigram knows that one code is never seen
    u = unigram(train.frames.astype(int), V)
    expected = -np.log(u[held_out.frames[:, AT][..., 0, 0]]).mean(-1)
    np.testing.assert_allclose(scores.nats["twin"], expected, rtol=1e-9)
    by_name = {figure.name: figure for figure in token_figures(scores, make_config())}
    assert set(by_name) == {"ce_gain_over_action_blind", *(f"ce_gain_over_{name}_h{h}"
                            for name in ("copy", "action_blind") for h in HORIZONS)}  # fmt: skip
    headline = by_name["ce_gain_over_action_blind"]
    assert headline.value == by_name["ce_gain_over_action_blind_h3"].value == pytest.approx(expected[:, 1].mean())
    assert headline.low <= headline.value <= headline.high
    assert headline.n == 10 and headline.unit == "nats"


def test_rollouts_are_averaged_as_probabilities():
    """Each of three rollouts is sure of one of three tokens: the true one among them has a third."""
    held_out, train = make_episodes(0, num=4), make_episodes(1, num=4)
    calls = []

    def shifted(true):
        return certain((true + calls[-1]) % V)

    def imagine(**inputs):
        calls.append(len(calls) % 3)
        return dreaming(shifted, held_out, train)(**inputs)

    scores = measure_tokens(MODEL, {"model": imagine}, held_out, train, make_config(), TOKENS)
    u = unigram(train.frames.astype(int), V)[held_out.frames[:, AT][..., 0, 0]]
    for k, eps in enumerate(scores.eps["model"]):
        np.testing.assert_allclose(scores.nats["model"][:, k], -np.log((1 - eps) / 3 + eps * u[:, k]).mean(-1))


def test_windows_of_an_episode_are_one_sample_and_short_ones_are_left_out():
    held_out, train = make_episodes(0, windows=2), make_episodes(1)
    held_out.lengths[0] = 4  # reaches frame 3, not frame 4
    imagines = {"model": dreaming(uniform, held_out, train)}
    scores = measure_tokens(MODEL, imagines, held_out, train, make_config(), TOKENS)
    apart = measure_tokens(MODEL, imagines, make_episodes(0), train, make_config(), TOKENS)
    assert scores.nats["copy"].shape == (5, 2)
    np.testing.assert_allclose(scores.nats["copy"][:, 0], apart.nats["copy"][:, 0].reshape(5, 2).mean(1))
    assert scores.nats["copy"][0, 1] == pytest.approx(apart.nats["copy"][1, 1])


def test_what_a_configuration_cannot_say():
    for wrong in ({"samples": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="at least 1"):
            TokenEntropyConfig(**wrong)
