"""Open-loop fidelity: imagined frames against recorded ones, beside what they must be compared with.

From an episode's start the model is given C context frames and the recorded actions. `model` is what it imagines,
`copy` the last context frame repeated, `ceiling` the recorded frame through the tokenizer, `shuffled` what the model
imagines with the actions of another episode, `twin` what its action-blind twin does, where there is one. All are scored
on raw frames.

Legend: N windows (one an episode by default), K horizons, T frames, S tokens a frame. An entry of an array [N, K] is
NaN where the window is too short for the horizon.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from whale.errors import UserError
from whale.eval.config import FidelityConfig
from whale.eval.episodes import Episodes
from whale.eval.results import Figure
from whale.metrics.frames import psnr, ssim, token_accuracy, token_flips
from whale.metrics.intervals import bootstrap_interval, cluster_means, mean_interval
from whale.progress import Progress

if TYPE_CHECKING:
    from whale.models.world_model import WorldModel
    from whale.rollout import Imagination

    Imagine = Callable[..., Imagination]
    """`Imagination` with the model filled in."""

SERIES = ("model", "ceiling", "copy", "shuffled", "twin")


@dataclass(frozen=True)
class Scores:
    """What was measured, per window, or per episode (`per_episode`)."""

    numbers: np.ndarray
    """int [N]: the episode of each window."""

    psnr: dict[str, np.ndarray]
    """Series -> float [N, K], dB."""
    ssim: dict[str, np.ndarray]
    """Series -> float [N, K]."""
    token_accuracy: dict[str, np.ndarray]
    """`model` and `copy` (the last context frame's tokens repeated) -> float [N, K]."""
    flips: np.ndarray
    """int [N, 2]: flipped tokens, and still patches they were counted on."""
    imagined_tokens: np.ndarray
    """int [windows, T, S]: tokens of the context, then the imagined ones."""

    def per_episode(self) -> "Scores":
        """Means over the windows of each episode."""
        def means(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: cluster_means(values, self.numbers) for name, values in scores.items()}

        flips = np.zeros((self.numbers.max() + 1, 2), int)
        np.add.at(flips, self.numbers, self.flips)
        return replace(self, numbers=np.arange(len(flips)), psnr=means(self.psnr), ssim=means(self.ssim),
                       token_accuracy=means(self.token_accuracy), flips=flips)  # fmt: skip


def donors(lengths: np.ndarray, seed: int, numbers: np.ndarray | None = None) -> np.ndarray:
    """Whose actions each window is given: those of the next longer one of another episode, the longest the shortest's.

    With one window an episode none keeps its own in this cycle, and of those that reach a horizon all but one at most
    are given actions that reach it too. Among windows of one length the order is random.

    Args:
        lengths: of the windows in frames, int [N].
        seed: of the random order.
        numbers: the episode of each, int [N], two at least; by default each is of its own.
    """
    numbers = np.arange(len(lengths)) if numbers is None else numbers
    shuffled = np.random.default_rng([seed, 2]).permutation(len(lengths))
    order = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    donor = np.empty(len(lengths), int)
    for i, own in enumerate(order):
        following = np.roll(order, -i - 1)
        donor[own] = following[np.argmax(numbers[following] != numbers[own])]
    return donor


def measure(
    model: "WorldModel", imagine: "Imagine", episodes: Episodes, config: FidelityConfig, twin: "Imagine | None" = None
) -> Scores:
    """Score the model on the episodes; `imagine` is `Imagination` with the model filled in, `twin` with its twin.

    Raises:
        UserError: fewer than `min_episodes` episodes reach a horizon.
    """
    reaches = episodes.lengths[:, None] >= config.context_frames + np.array(config.horizons)[None]  # [N, K]
    counts = [len(np.unique(episodes.numbers[reach])) for reach in reaches.T]
    for count, horizon in zip(counts, config.horizons, strict=True):
        if count < config.min_episodes:
            raise UserError(
                f"{count} episodes reach horizon {horizon}, min_episodes asks for {config.min_episodes}",
                "give more or longer episodes, or lower horizons or min_episodes",
            )
    donor = donors(episodes.lengths, config.seed, episodes.numbers)
    progress = Progress("fidelity", len(episodes), "windows" if config.window_every else "episodes")
    parts = []
    for start in range(0, len(episodes), config.batch):
        chosen = np.arange(start, min(start + config.batch, len(episodes)))
        parts.append(_measure_batch(model, imagine, twin, episodes, chosen, donor[chosen], config))
        progress.advance(len(chosen))
    progress.close()
    return _mask(_concatenate(parts), reaches, reaches & reaches[donor])


def _measure_batch(
    model: "WorldModel",
    imagine: "Imagine",
    twin: "Imagine | None",
    episodes: Episodes,
    chosen: np.ndarray,
    donor: np.ndarray,
    config: FidelityConfig,
) -> Scores:
    context, at = config.context_frames, config.context_frames - 1 + np.array(config.horizons)
    frames, actions = episodes.frames[chosen], episodes.actions[chosen]
    shuffled_actions = actions.copy()
    shuffled_actions[:, context - 1 :] = episodes.actions[donor, context - 1 :]
    tokens = np.stack([model.encode(episode) for episode in frames])

    imagined, imagined_tokens = _imagine(imagine, episodes, frames, actions, config)
    shown = {
        "model": imagined,
        "copy": np.repeat(frames[:, context - 1, None], len(at), 1),
        "ceiling": np.concatenate([model.decode(episode[None])[:, at] for episode in tokens]),
        "shuffled": _imagine(imagine, episodes, frames, shuffled_actions, config)[0],
    }
    if twin:
        shown["twin"] = _imagine(twin, episodes, frames, actions, config)[0]
    guesses = {"model": imagined_tokens[:, at - context], "copy": tokens[:, context - 1, None]}
    flips = [token_flips(frames[i, :n], tokens[i, :n]) for i, n in enumerate(episodes.lengths[chosen])]
    return Scores(
        numbers=episodes.numbers[chosen],
        psnr={name: psnr(pictures, frames[:, at]) for name, pictures in shown.items()},
        ssim={name: ssim(pictures, frames[:, at]) for name, pictures in shown.items()},
        token_accuracy={name: token_accuracy(guess, tokens[:, at]) for name, guess in guesses.items()},
        flips=np.array(flips),
        imagined_tokens=np.concatenate([tokens[:, :context], imagined_tokens], 1),
    )


def _imagine(
    imagine: "Imagine", episodes: Episodes, frames: np.ndarray, actions: np.ndarray, config: FidelityConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Roll out with the given actions: frames at the horizons uint8 [B, K, H, W, 3], tokens of all steps [B, h, S]."""
    context = config.context_frames
    imagination = imagine(
        context_frames=frames[:, :context],
        context_actions=actions[:, : context - 1],
        dataset=episodes.dataset,
        control_period_sec=episodes.control_period_sec,
    )
    shown, tokens = [], []
    for horizon in range(1, config.horizons[-1] + 1):
        step = imagination.step(actions[:, context - 2 + horizon])
        tokens.append(step.tokens)
        if horizon in config.horizons:  # decoding is dear: only the frames that are scored
            shown.append(imagination.frame())
    return np.stack(shown, 1), np.stack(tokens, 1)


def _concatenate(parts: list[Scores]) -> Scores:
    def joined(field: str) -> dict[str, np.ndarray]:
        names = getattr(parts[0], field)
        return {name: np.concatenate([getattr(part, field)[name] for part in parts]) for name in names}

    return Scores(
        numbers=np.concatenate([part.numbers for part in parts]),
        psnr=joined("psnr"),
        ssim=joined("ssim"),
        token_accuracy=joined("token_accuracy"),
        flips=np.concatenate([part.flips for part in parts]),
        imagined_tokens=np.concatenate([part.imagined_tokens for part in parts]),
    )


def _mask(scores: Scores, reaches: np.ndarray, both_reach: np.ndarray) -> Scores:
    """NaN where an episode (or, for shuffled actions, the one that lends them) does not reach the horizon."""
    for by_name in (scores.psnr, scores.ssim, scores.token_accuracy):
        for name, values in by_name.items():
            values[~(both_reach if name == "shuffled" else reaches)] = np.nan
    return scores


def figures(scores: Scores, config: FidelityConfig) -> list[Figure]:
    """The figures of a fidelity result; intervals resample episodes."""
    scores = scores.per_episode()
    h, k = config.judge_horizon, config.horizons.index(config.judge_horizon)
    p = {name: values[:, k] for name, values in scores.psnr.items()}
    found = [
        mean_figure(f"psnr_gain_over_copy_h{h}", p["model"] - p["copy"], "dB", config.seed),
        mean_figure(f"psnr_below_ceiling_h{h}", p["ceiling"] - p["model"], "dB", config.seed),
        mean_figure("action_following_psnr", p["model"] - p["shuffled"], "dB", config.seed),
    ]
    flips = scores.flips
    if flips[:, 1].sum():  # a noisy camera leaves no patch still, and then there is no such figure
        def rate(drawn: np.ndarray) -> float:
            return flips[drawn, 0].sum() / max(flips[drawn, 1].sum(), 1)

        everyone = np.arange(len(flips))
        interval = bootstrap_interval(rate, len(flips), config.seed)
        found.append(Figure("token_flip_rate", float(rate(everyone)), *interval, "share", len(flips)))
    for index, horizon in enumerate(config.horizons):
        found.append(mean_figure(f"psnr_h{horizon}", scores.psnr["model"][:, index], "dB", config.seed))
        found.append(mean_figure(f"ssim_h{horizon}", scores.ssim["model"][:, index], "", config.seed))
    found.append(mean_figure(f"token_accuracy_h{h}", scores.token_accuracy["model"][:, k], "share", config.seed))
    found.append(mean_figure(f"token_accuracy_copy_h{h}", scores.token_accuracy["copy"][:, k], "share", config.seed))
    for rival, name, first in (("copy", "copy", k + 1), ("twin", "action_blind", k)):
        for index in range(first, len(config.horizons)) if rival in scores.psnr else ():
            gain = scores.psnr["model"][:, index] - scores.psnr[rival][:, index]
            found.append(mean_figure(f"psnr_gain_over_{name}_h{config.horizons[index]}", gain, "dB", config.seed))
    return found


def mean_figure(name: str, values: np.ndarray, unit: str, seed: int) -> Figure:
    """The mean over episodes, float [N]; NaN marks an episode that is left out."""
    values = values[~np.isnan(values)]
    return Figure(name, float(values.mean()), *mean_interval(values, seed), unit, len(values))


def curve(values: np.ndarray, seed: int) -> dict[str, list[float]]:
    """Mean, 95 % interval and count per horizon, from float [N, K]."""
    points = [mean_figure("", values[:, k], "", seed) for k in range(values.shape[1])]
    return {key: [getattr(point, attribute) for point in points]
            for key, attribute in (("mean", "value"), ("low", "low"), ("high", "high"), ("n", "n"))}  # fmt: skip
