"""Token cross-entropy over the horizon: nats a token that the recorded frame costs, given context and actions.

What a model says of frame h ahead is a mean over what may happen before it: p(x_h) = mean_k p(x_h | own frames 1 .. h-1
of rollout k), tokens drawn at every step, K rollouts. `copy` says that each token is that of the last context frame.
Each is then mixed with the unigram of tokens, (1 - eps) p + eps u, with u and, per series and horizon, the most likely
eps taken from the train split: the same treatment for all, and nothing is fitted on what is scored.

Legend as in `whale.eval.fidelity`; V codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whale.eval.config import FidelityConfig, TokenEntropyConfig
from whale.eval.episodes import Episodes
from whale.eval.fidelity import mean_figure
from whale.eval.results import Figure
from whale.metrics.intervals import cluster_means
from whale.metrics.token_entropy import cross_entropy, fit_mixture, unigram
from whale.progress import Progress

if TYPE_CHECKING:
    from whale.eval.fidelity import Imagine
    from whale.models.world_model import WorldModel


@dataclass(frozen=True)
class TokenScores:
    """Cross-entropies, and how they were mixed."""

    nats: dict[str, np.ndarray]
    """`model`, `copy` and perhaps `twin` -> float [E, K], nats a token, means over the windows of each episode."""
    eps: dict[str, list[float]]
    """Series -> share of the unigram at each horizon."""


def measure_tokens(
    model: "WorldModel",
    imagines: Mapping[str, "Imagine"],
    held_out: Episodes,
    train: Episodes,
    config: FidelityConfig,
    how: TokenEntropyConfig,
) -> TokenScores:
    """Score the held-out windows; `imagines` maps `model` and perhaps `twin` to `Imagination` with that model in it."""
    at = config.context_frames - 1 + np.array(config.horizons)
    tokens = {id(part): np.stack([model.encode(frames) for frames in part.frames]) for part in (held_out, train)}
    u_V = unigram(tokens[id(train)], model.tokenizer.num_codes)

    def probabilities(name: str, part: Episodes) -> np.ndarray:
        own = tokens[id(part)]
        if name == "copy":
            return (own[:, at] == own[:, config.context_frames - 1, None]).astype(float)
        return _imagined(imagines[name], part, own, config, how)

    nats, eps = {}, {}
    for name in (*imagines, "copy"):
        fitted_p, fitted_u = probabilities(name, train), u_V[tokens[id(train)][:, at]]
        reaches = train.lengths[:, None] > at
        eps[name] = [fit_mixture(fitted_p[reaches[:, k], k].ravel(), fitted_u[reaches[:, k], k].ravel())
                     for k in range(len(at))]  # fmt: skip
        p, u = probabilities(name, held_out), u_V[tokens[id(held_out)][:, at]]
        nats_NK = np.stack([cross_entropy(p[:, k], u[:, k], eps[name][k]) for k in range(len(at))], 1)
        nats_NK[held_out.lengths[:, None] <= at] = np.nan
        nats[name] = cluster_means(nats_NK, held_out.numbers)
    return TokenScores(nats, eps)


def _imagined(
    imagine: "Imagine", episodes: Episodes, tokens: np.ndarray, config: FidelityConfig, how: TokenEntropyConfig
) -> np.ndarray:
    """Probability of the recorded token at every horizon and position, mean over the rollouts: float64 [N, K, S]."""
    p = np.zeros((len(episodes), len(config.horizons), tokens.shape[2]))
    progress = Progress("token cross-entropy", len(episodes), "windows")
    for first in range(0, len(episodes), config.batch):
        batch = slice(first, min(first + config.batch, len(episodes)))
        for sample in range(how.samples):
            p[batch] += _rollout(imagine, episodes, tokens, batch, sample, config, how.temperature) / how.samples
        progress.advance(batch.stop - batch.start)
    progress.close()
    return p


def _rollout(
    imagine: "Imagine", episodes: Episodes, tokens: np.ndarray, batch: slice, sample: int, config: FidelityConfig,
    temperature: float,
) -> np.ndarray:  # fmt: skip
    """One rollout of a batch: probability of the recorded token at every horizon, float64 [B, K, S]."""
    import torch

    from whale.sampling import Sampling

    context, actions = config.context_frames, episodes.actions[batch]
    numbers = range(batch.start, batch.stop)
    seeds = [int(np.random.SeedSequence([config.seed, 3, n, sample]).generate_state(1)[0]) for n in numbers]
    imagination = imagine(
        context_frames=episodes.frames[batch, :context],
        context_actions=actions[:, : context - 1],
        dataset=episodes.dataset,
        control_period_sec=episodes.control_period_sec,
        sampling=Sampling(temperature, seeds),
    )
    found = []
    for horizon in range(1, config.horizons[-1] + 1):
        imagination.step(actions[:, context - 2 + horizon])
        if horizon in config.horizons:
            recorded_BS1 = torch.from_numpy(tokens[batch, context - 1 + horizon])[..., None]
            p_BSV = imagination.logits_BSV.double().softmax(-1)
            found.append(p_BSV.gather(-1, recorded_BS1.to(p_BSV.device))[..., 0].cpu().numpy())
    return np.stack(found, 1)


def token_figures(scores: TokenScores, config: FidelityConfig) -> list[Figure]:
    """Gains over copy and twin, in nats a token, at every horizon; intervals resample episodes."""
    found = []
    for rival, name in (("copy", "copy"), ("twin", "action_blind")):
        if rival in scores.nats:
            gain = scores.nats[rival] - scores.nats["model"]
            found += [mean_figure(f"ce_gain_over_{name}_h{horizon}", gain[:, k], "nats", config.seed)
                      for k, horizon in enumerate(config.horizons)]  # fmt: skip
            if rival == "twin":
                judged = gain[:, config.horizons.index(config.judge_horizon)]
                found.insert(0, mean_figure("ce_gain_over_action_blind", judged, "nats", config.seed))
    return found
