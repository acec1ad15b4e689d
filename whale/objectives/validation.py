"""Figures on held-out clips while a model is trained: over everything, per dataset and per robot, exact over ranks.

Action-following asks whether the model listens: the same clips are imagined with their own actions and with those of
another clip of the same dataset, and both are scored against what was recorded. A model that ignores its actions gets
0 dB, and may have the best cross-entropy.

Legend: B clips, T frames, C context frames, S tokens a frame, D datasets, H x W pixels.
"""

import torch
from torch import Tensor

from whale.config import configclass
from whale.models.dataset_card import DatasetCard
from whale.models.world_model import WorldModel
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.dynamics_loss import DynamicsLossConfig, clip_counts, dynamics_terms
from whale.objectives.noise import NO_NOISE
from whale.ranks import total
from whale.sampling import expected_tokens
from whale.token_rollout import TokenRollout

FOLLOWING = "action_following"
QUIET = DynamicsLossConfig(noise=NO_NOISE)


@configclass
class ValidationConfig:
    """What a validation scores."""

    batches: int = 8
    """Held-out batches whose next frames are predicted."""
    following_clips: int = 16
    """Held-out clips that are imagined, with their own and with another clip's actions; 0 leaves that out."""
    following_horizon: int = 8
    """Frames to imagine, after as many recorded ones as the dynamics see (`dynamics.band`)."""
    min_action_following: float | None = None
    """Least PSNR (dB) with true minus with another clip's actions; a run below it is stopped once it is saved."""
    min_following_from: int = 0
    """Step from which on that is asked."""

    def __post_init__(self) -> None:
        """Check the counts."""
        if self.batches < 1 or self.following_clips < 0 or self.following_horizon < 1:
            raise ValueError("batches and following_horizon are at least 1, following_clips is not negative")
        if self.min_action_following is not None and self.following_clips < 2:
            raise ValueError("min_action_following needs following_clips, 2 at least")


class Tally:
    """Sums of figures over clips, by dataset; a mean is a sum over all ranks divided by a count over all ranks."""

    def __init__(self, cards: dict[str, DatasetCard]):
        self._names = sorted(cards)
        self._robots = [cards[name].robot for name in self._names]
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, value_B: Tensor, count_B: Tensor, embodiment_B: Tensor) -> None:
        """Add what each clip has of a figure: its sum, and the number of entries that is over."""
        columns_B3 = torch.stack([value_B, value_B.square(), count_B.to(value_B)], -1).double()
        sums_D3 = self._sums.setdefault(name, columns_B3.new_zeros(len(self._names), 3))
        sums_D3.index_add_(0, embodiment_B, columns_B3)

    def figures(self) -> dict[str, float]:
        """Means over all clips, `dataset/<name>/...` and `robot/<name>/...`, of all ranks and the same on each.

        The standard error of `action_following` is over clips. What no clip has is left out.
        """
        sums_FD3 = total(torch.stack(list(self._sums.values())).cpu())
        groups = {"": range(len(self._names))} | {f"dataset/{name}/": [i] for i, name in enumerate(self._names)}
        for robot in sorted(set(self._robots) - {""}):
            groups[f"robot/{robot}/"] = [i for i, one in enumerate(self._robots) if one == robot]
        found = {}
        for prefix, rows in groups.items():
            for name, sums_D3 in zip(self._sums, sums_FD3, strict=True):
                value, square, count = sums_D3[list(rows)].sum(0).tolist()
                if count:
                    found[prefix + name] = value / count
                if name == FOLLOWING and count > 1:
                    variance = max(0.0, square / count - (value / count) ** 2) / (count - 1)
                    found[f"{prefix}{name}_se"] = variance**0.5
        return found


def add_predictions(model: WorldModel, batch: dict[str, Tensor], tally: Tally) -> None:
    """Score the next frames of token clips, all from recorded frames and without noise."""
    noise = ClipNoise(0, 0, batch["position"], batch["valid"].device)
    terms = dynamics_terms(model, batch, QUIET, noise)
    counts = {**clip_counts(batch), "moved": terms["moved_accuracy"].mask.flatten(1).sum(1)}
    for name, term in terms.items():
        tally.add(name, (term.value * term.mask).flatten(1).sum(1), counts[term.per], batch["embodiment"])


def imagine(model: WorldModel, context_BCS: Tensor, action_BTF: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Context tokens and what follows from features of actions, int64 [B, T, S]: prior mean and expected tokens."""
    rollout, present = TokenRollout(model, batch), context_BCS.shape[1] - 1
    if present:
        rollout.begin(context_BCS[:, :present], action_BTF[:, :present])
    frames = [context_BCS]
    for t in range(present, action_BTF.shape[1] - 1):
        logits_BTSV = rollout.predict(frames[-1][:, -1:], action_BTF[:, t : t + 1]).logits_BTSV
        rollout.advance(action_BTF[:, t])
        frames.append(expected_tokens(logits_BTSV[:, 0], model.tokenizer)[:, None])
    return torch.cat(frames, 1)


def add_following(model: WorldModel, batch: dict[str, Tensor], context: int, tally: Tally) -> Tensor:
    """Score imagination with true and with other actions on token clips; frames uint8 [B, T, H, 2 W, 3] for the eye.

    The batch is one of `whale.validate.following_batch`. Both are compared with the decoded recording, in PSNR (dB) of
    each frame; the tokenizer's own loss is in neither.
    """
    swapped = {}
    for name in ("actions", "action_mask"):  # what was done in the context stays
        swapped[name] = torch.cat([batch[name][:, : context - 1], batch[f"other_{name}"][:, context - 1 :]], 1)
    both = {name: torch.cat([value, swapped.get(name, value)]) for name, value in batch.items()}
    imagined_BTS = imagine(model, both["tokens"][:, :context], model.action_features(both), both)
    recorded = model.tokenizer.decode(batch["tokens"])
    true, other = (model.tokenizer.decode(tokens_BTS) for tokens_BTS in imagined_BTS.chunk(2))
    scored_BT = batch["scored"][:, context:]
    count_B = scored_BT.sum(1)
    psnr_B, other_B = (
        (_psnr(frames, recorded)[:, context:] * scored_BT).sum(1) / count_B.clamp_min(1) for frames in (true, other)
    )
    has = count_B > 0
    tally.add("imagined_psnr", psnr_B, has, batch["embodiment"])
    tally.add(FOLLOWING, (psnr_B - other_B) * has, has, batch["embodiment"])
    return torch.cat([recorded, true], 3)


def _psnr(frames_BTHW3: Tensor, reference_BTHW3: Tensor) -> Tensor:
    """PSNR in dB of uint8 frames, float32 [B, T]; as `whale.metrics.frames.psnr`."""
    error_BT = (frames_BTHW3.float() - reference_BTHW3.float()).square().mean((2, 3, 4))
    return 10 * (255**2 / error_BT.clamp_min(1 / 12)).log10()
