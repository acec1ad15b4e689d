"""What a model says of its own imagined frames, and how wrong they are, on recorded episodes.

From C context frames the model imagines in closed token space with the recorded actions. Every other source of a signal
follows the tokens of that one rollout: the members of an ensemble and the dropout samples say what they expect of the
same frame after the same frames.

The error of a frame is the root mean square difference, in grey levels, between the imagined and the recorded frame,
both through the tokenizer: decode(imagined tokens) against decode(encode(recorded frame)). That is what the dynamics
are to blame for, and all that a signal of theirs can know; what the tokenizer loses, it loses on both sides.

Legend: N episodes, B of them at once, H imagined frames, S tokens, V codes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from whale.actions import ActionStatus
from whale.eval.config import UncertaintyConfig
from whale.eval.episodes import Episodes
from whale.models.world_model import WorldModel
from whale.objectives.clip_noise import ClipNoise
from whale.progress import Progress
from whale.rollout import Imagination
from whale.uncertainty import Uncertainty, uncertainty

HEADLINES = {"retracing": "top", "ensemble": "divergence_top", "dropout": "divergence_top"}
"""The field of `Uncertainty` that each source is judged by, chosen before anything was measured: retracing by the
product that the method asks for, pooled over the tenth of the tokens that disagree most; ensemble and dropout by their
disagreement alone, as is usual, pooled alike. The other fields stand beside it as `<source>_<field>`."""
FIELDS = ("top", "mean", "divergence_top", "divergence_mean", "entropy")


@dataclass(frozen=True)
class Signals:
    """Of N episodes and each of H imagined frames."""

    error: np.ndarray
    """float64 [N, H], grey levels."""
    tokens: np.ndarray
    """int64 [N, H, S], imagined."""
    per_step: dict[str, np.ndarray]
    """Signal -> float64 [N, H], each of one step; `entropy` in nats a token, `action_norm` of scaled actions."""
    divergence: np.ndarray | None
    """float32 [N, H, S]: how far the retraced predictions of each token disagree, nats; None without retracing."""

    @property
    def accumulated(self) -> dict[str, np.ndarray]:
        """Signal -> float64 [N, H]: sums over the steps so far. They are judged, since errors accumulate too."""
        return {name: values.cumsum(1) for name, values in self.per_step.items()}


def collect(
    model: WorldModel, members: list[WorldModel], episodes: Episodes, retrace: bool, config: UncertaintyConfig
) -> Signals:
    """Roll every episode out once; `retrace` says whether retracing is defined for its actions."""
    progress, parts = Progress("uncertainty", len(episodes), "episodes"), []
    for start in range(0, len(episodes), config.batch):
        chosen = np.arange(start, min(start + config.batch, len(episodes)))
        parts.append(_collect_batch(model, members, episodes, chosen, retrace, config))
        progress.advance(len(chosen))
    progress.close()
    divergences = [part.divergence for part in parts if part.divergence is not None]
    return Signals(
        error=np.concatenate([part.error for part in parts]),
        tokens=np.concatenate([part.tokens for part in parts]),
        per_step={name: np.concatenate([part.per_step[name] for part in parts]) for name in parts[0].per_step},
        divergence=np.concatenate(divergences) if divergences else None,
    )


def _collect_batch(
    model: WorldModel, members: list[WorldModel], episodes: Episodes, chosen: np.ndarray, retrace: bool,
    config: UncertaintyConfig,
) -> Signals:  # fmt: skip
    frames, actions, first = episodes.frames[chosen], episodes.actions[chosen], config.context_frames - 1

    def imagination(of: WorldModel, copies: int = 1, **options: Any) -> Imagination:
        return Imagination(of, frames[:, : first + 1].repeat(copies, 0), actions[:, :first].repeat(copies, 0),
                           episodes.dataset, episodes.control_period_sec, **options)  # fmt: skip

    leader = imagination(model, retracing=config.retracing if retrace else None)
    followers = {"ensemble": _Followers([imagination(member) for member in members])} if members else {}
    if config.dropout_samples:
        samples, keep = config.dropout_samples, _dropout_masks(model, chosen, config)
        followers["dropout"] = _Followers([imagination(model, samples, keep=keep)], samples)
    card = model.config.datasets[episodes.dataset]
    actuated = [status == ActionStatus.ACTUATED for status in card.action_status]
    tokens, found, divergence = [], [], []
    for t in range(first, first + config.horizon):
        predictions = {source: one.predict(actions[:, t]) for source, one in followers.items()}
        step = leader.step(actions[:, t])
        if members:
            predictions["ensemble"].append(leader.logits_BSV)
        of_step = {} if step.uncertainty is None else {"retracing": step.uncertainty}
        of_step |= {source: uncertainty(torch.stack(logits, 1)) for source, logits in predictions.items()}
        if retrace:  # a frame that is not retraced adds nothing
            seen = step.uncertainty and step.uncertainty.divergence_BS.cpu().numpy()
            divergence.append(np.zeros(step.tokens.shape, np.float32) if seen is None else seen)
        norm = np.linalg.norm(card.scale.scale(actions[:, t])[:, actuated].astype(np.float64), axis=-1)
        found.append(_named(of_step, leader.logits_BSV) | {"action_norm": norm})
        tokens.append(step.tokens)
        for one in followers.values():
            one.accept(torch.from_numpy(step.tokens).to(leader.logits_BSV.device))
    imagined = np.stack(tokens, 1)
    names, nothing = dict.fromkeys(name for signals in found for name in signals), np.zeros(len(chosen))
    per_step = {name: np.stack([signals.get(name, nothing) for signals in found], 1) for name in names}
    divergence_BHS = np.stack(divergence, 1) if divergence else None
    return Signals(errors(model, frames, imagined), imagined, per_step, divergence_BHS)


class _Followers:
    """Imaginations that go along with the tokens of another, each row of which is `copies` rows of theirs."""

    def __init__(self, imaginations: list[Imagination], copies: int = 1):
        self._imaginations, self._copies = imaginations, copies

    def predict(self, actions: np.ndarray) -> list[Tensor]:
        """Their predictions of the next frame after physical actions [B, 7]: logits [B, S, V] each."""
        found = [one.predict(actions.repeat(self._copies, 0)).logits_BSV for one in self._imaginations]
        return [part for logits in found for part in logits.unflatten(0, (-1, self._copies)).unbind(1)]

    def accept(self, tokens_BS: Tensor) -> None:
        """Go along."""
        for one in self._imaginations:
            one.accept(tokens_BS.repeat_interleave(self._copies, 0))


def _dropout_masks(model: WorldModel, chosen: np.ndarray, config: UncertaintyConfig) -> Tensor | None:
    """A mask for each sample of each episode, whatever else is in the batch."""
    rows = chosen[:, None] * config.dropout_samples + np.arange(config.dropout_samples)
    device = model.dynamics.position_RD.device
    return model.dynamics.draw_keep(ClipNoise(config.seed, 0, torch.from_numpy(rows.ravel()), device).uniform)


def _named(of_step: dict[str, Uncertainty], logits_BSV: Tensor) -> dict[str, np.ndarray]:
    """The signals of one step, float64 [B] each; a source's headline has the source's name."""
    signals = {}
    for source, found in of_step.items():
        for field in FIELDS:
            name = source if field == HEADLINES[source] else f"{source}_{field}"
            signals[name] = getattr(found, field).double().cpu().numpy()
    signals["entropy"] = uncertainty(logits_BSV[:, None]).entropy.double().log().cpu().numpy()
    return signals


def errors(model: WorldModel, frames: np.ndarray, imagined: np.ndarray) -> np.ndarray:
    """Errors in grey levels, float64 [B, H], of imagined tokens [B, H, S].

    They are of the last H of the recorded frames, uint8 [B, T, H, W, 3]; those before are what was given.
    """
    found = []
    for recorded, tokens in zip(frames, imagined, strict=True):  # one at a time: large frames fill the memory
        true = model.encode(recorded)
        given = len(true) - len(tokens)
        shown, aim = model.decode(np.stack([np.concatenate([true[:given], tokens]), true]))[:, given:]
        square = np.square(shown.astype(np.float32) - aim).mean((1, 2, 3), dtype=np.float64)
        found.append(np.sqrt(square))
    return np.stack(found)
