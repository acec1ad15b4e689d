"""Retracing-rollout: how far predictions of one frame, reached by actions merged in different ways, disagree.

The prediction of frame t+1 is made again from k frames earlier, by the one action that does what the last k+1 did: a
model that has learned what actions do gives the same answer (WHALE, arXiv 2411.05619, section on retracing-rollout).
Members of an ensemble, or dropout samples, are compared by the same function.

Legend: B episodes, K predictions of the same frame, S tokens a frame, V codes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from whale.actions import ACTION_NAMES, ActionStatus, merge
from whale.clips.clip import ActionType
from whale.config import configclass
from whale.errors import UserError
from whale.models.dataset_card import DatasetCard

TOP_SHARE = 0.1
"""Of the tokens, those that disagree most: a still background dilutes the mean over all (our choice)."""


@configclass
class Retracing:
    """From where each frame is predicted again.

    A rollout whose frames are decoded takes 1.5 times as long with {0, 1}, one in token space 1.8 to 2 times (26M
    parameters, 256 tokens a frame, two CPU cores); every further step costs that much again.
    """

    steps: tuple[int, ...] = (0, 1)
    """K: frames to go back, ascending; 0, the ordinary prediction, is the first."""
    every: int = 1
    """Only every n-th frame is retraced; the others have no uncertainty, and cost what they cost without. Rows that
    restart would be out of step, and need 1."""

    def __post_init__(self) -> None:
        """Check the steps."""
        if self.steps != tuple(sorted(set(self.steps))) or len(self.steps) < 2 or self.steps[0] != 0:
            raise ValueError(f"steps {self.steps} must ascend from 0, the ordinary prediction, to at least one other")
        if self.every < 1:
            raise ValueError(f"every is {self.every}, and must be at least 1")


def refuse_unmergeable(card: DatasetCard) -> None:
    """Refuse a dataset in which what several actions do cannot be told as one action.

    Raises:
        UserError: its actions are no end-effector deltas, a dimension of them is unknown, or their frame is.
    """
    remedy = "estimate uncertainty without retracing (token entropy, an ensemble or dropout)"
    if card.action_type != ActionType.EEF_DELTA:
        raise UserError(
            f"the dataset has {card.action_type} actions, and retracing merges {ActionType.EEF_DELTA.value} actions "
            "only: neither absolute poses nor joint angles nor planar motions add up to a motion of the tool",
            remedy,
        )
    axes = zip(ACTION_NAMES, card.action_status, strict=True)
    if unknown := [axis for axis, status in axes if status == ActionStatus.UNKNOWN]:
        raise UserError(
            f"the dataset's action dimensions {', '.join(unknown)} are unknown, and so is what several actions do",
            f"{remedy}; if the robot cannot move in them, convert with `absent: fixed` and train again",
        )
    if card.action_frame not in ("base", "tool"):
        raise UserError(
            f"the dataset's actions are told in the frame {card.action_frame!r}, and merged in `base` or `tool` only",
            f"{remedy}; where the frame is missing, `whale pretrain export` writes it from the clips",
        )


def merged_actions(card: DatasetCard, recent_actions: Sequence[np.ndarray], steps: Sequence[int]) -> np.ndarray:
    """The actions that retracing feeds: for each k in `steps` the last k + 1 actions as one, in physical units.

    Translations add up and rotations compose in the dataset's frame; the gripper's last command counts. A fixed
    dimension is the identity, and stays so: where only some rotations are fixed, what composing the others would turn
    about a fixed axis (of second order in the angles) is left out, as the robot leaves it out.

    Args:
        card: what is known of the dataset's actions.
        recent_actions: float32 [B, 7] each, oldest first, at least max(steps) + 1 of them; the last one leads to the
            predicted frame.
        steps: K, of `Retracing`.

    Returns:
        float32 [B, K, 7]; for k = 0 the last action to the bit.

    Raises:
        UserError: see `refuse_unmergeable`.
    """
    refuse_unmergeable(card)
    fixed = np.array([status == ActionStatus.FIXED for status in card.action_status[:6]] + [False])
    free = [np.where(fixed, np.float32(0), action) for action in recent_actions]
    merged = [np.where(fixed, np.float32(0), merge(free[-1 - k :], card.action_frame)) for k in steps[1:]]
    return np.stack([recent_actions[-1], *merged], 1)


class Uncertainty(NamedTuple):
    """Of the frame that one step predicts, float32 [B] but for the last.

    It is of this step alone. Errors accumulate along a rollout, and what predicts them is the sum over its steps so far
    (`whale.calibration`).
    """

    divergence_mean: Tensor
    """Jensen-Shannon divergence of the K predictions, nats a token (at most log K), over all tokens."""
    divergence_top: Tensor
    """The same over the tenth of the tokens where it is largest."""
    entropy: Tensor
    """exp of the mean token entropy of the mean prediction: among how many codes a token is open."""
    mean: Tensor
    """u = divergence_mean x entropy."""
    top: Tensor
    """u = divergence_top x entropy."""
    divergence_BS: Tensor
    """The divergence of each token, float32 [B, S]: where in the frame predictions disagree."""


@torch.no_grad()
def uncertainty(logits_BKSV: Tensor) -> Uncertainty:
    """Divergence and entropy of K predictions of the same frame: u = D({p_k}) exp(mean_s H(mean_k p_k^(s))).

    That product is WHALE's; D as Jensen-Shannon divergence, its two poolings over tokens, and to report the factors
    beside the products, are ours. Equal predictions have divergence 0 exactly, and no divergence is negative.

    Retracing sees where a model contradicts itself; 0 is no proof of a perfect one. It does not see an error that
    all K predictions share: a token that is always painted wrong, or, from the second imagined frame on, one that
    composes as the world does (each action moves things 1.2 times too far, or nothing ever moves). And a model that is
    right contradicts itself where things move on their own, since a merged action does not say how many steps it stands
    for, or where it is larger than any action in training.

    Args:
        logits_BKSV: float [B, K, S, V], on any device; computed in float32, or in float64 where they are.
    """
    p_BKSV = logits_BKSV.to(torch.promote_types(logits_BKSV.dtype, torch.float32)).softmax(-1)
    tiny, num = torch.finfo(p_BKSV.dtype).tiny, p_BKSV.shape[1]
    # So written, the mean of equal predictions is equal to them, and their ratio to it is 1, to the last bit.
    mean_BSV = p_BKSV[:, 0].clone()
    for k in range(1, num):
        mean_BSV.add_(p_BKSV[:, k] - p_BKSV[:, 0], alpha=1 / num)
    mean_BSV.clamp_min_(tiny)
    # In place, since this reads more memory than it computes; where p is 0, 0 log tiny is 0.
    gain_BKSV = (p_BKSV / mean_BSV[:, None]).clamp_min_(tiny).log_().mul_(p_BKSV)
    divergence_BS = gain_BKSV.sum(-1).double().mean(1).clamp_min(0)
    entropy_B = -mean_BSV.log().mul_(mean_BSV).sum(-1).double().mean(1)
    top = divergence_BS.topk(max(1, round(TOP_SHARE * divergence_BS.shape[1])), dim=1).values
    pooled_mean_B, pooled_top_B, open_B = divergence_BS.mean(1), top.mean(1), entropy_B.exp()
    values = (pooled_mean_B, pooled_top_B, open_B, pooled_mean_B * open_B, pooled_top_B * open_B, divergence_BS)
    return Uncertainty(*(value.float() for value in values))
