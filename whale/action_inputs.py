"""Physical actions of one dataset as features for the model.

Legend: B episodes, T actions of each, F features.
"""

import numpy as np
import torch
from torch import Tensor

from whale.actions import ACTION_DIM, ACTION_NAMES, ActionStatus
from whale.errors import UserError
from whale.models.dataset_card import DatasetCard
from whale.models.dynamics import action_features
from whale.models.world_model import WorldModel

FARTHEST = 20.0
"""In units of half the span from the 1 % to the 99 % quantile, from its middle: ten spans. Millimetres are a thousand
times what metres are and degrees 57 times radians; recorded glitches stay below."""


class ActionInputs:
    """How a model is given the actions of one dataset.

    Raises:
        UserError: the model does not know the dataset, or the control period is no time.
    """

    def __init__(self, model: WorldModel, dataset: str, control_period_sec: float):
        if dataset not in model.config.datasets:
            raise UserError(
                f"the model was not trained on {dataset!r}, only on {sorted(model.config.datasets)}",
                "choose one of these, or adapt the model to the new data with `whale finetune world_model`",
            )
        if not 0 < control_period_sec < float("inf"):
            raise UserError(f"the control period is {control_period_sec} s", "give the seconds between two frames")
        self.dataset, self.control_period_sec = dataset, control_period_sec
        self.card: DatasetCard = model.config.datasets[dataset]
        self._one = model.action_inputs(dataset, 1, control_period_sec)
        self._moved = np.array([status == ActionStatus.ACTUATED for status in self.card.action_status])
        self._weight = model.dynamics.position_RD

    def constant(self, batch: int) -> dict[str, Tensor]:
        """Control period and embodiment of as many episodes, [B]."""
        return {name: self._one[name].repeat(batch) for name in ("control_period_sec", "embodiment")}

    def features(self, actions: np.ndarray) -> Tensor:
        """Of actions float32 [B, T, 7], in physical units: [B, T, F] on the model's device."""
        batch, one = len(actions), self._one
        scaled_BTA = torch.from_numpy(self.card.scale.scale(actions)).to(self._weight)
        mask_BTA = one["actuated"].expand_as(scaled_BTA)
        return action_features(
            scaled_BTA * mask_BTA, mask_BTA, one["action_status"].expand(batch, -1), one["action_type"].expand(batch)
        )

    def check(self, actions: np.ndarray, shape: tuple[int, ...]) -> None:
        """Raise a UserError unless actions have a shape, are finite, and no farther out than the dataset's may be."""
        if actions.shape != shape or not np.isfinite(actions).all():
            raise UserError(
                f"actions are {actions.dtype} {actions.shape}, with finite values: {bool(np.isfinite(actions).all())}",
                f"give finite canonical actions of shape {shape}",
            )
        far = (np.abs(self.card.scale.scale(actions)) > FARTHEST) & self._moved
        if far.any():
            at = tuple(np.argwhere(far)[0])
            i = at[-1]
            raise UserError(
                f"the action {ACTION_NAMES[i]} is {actions[at]:.4g} (episode {at[0]}); in {self.dataset!r} it lies "
                f"between {self.card.action_low[i]:.4g} and {self.card.action_high[i]:.4g} (1 % to 99 %), and what is "
                "ten such spans away means nothing to the model",
                "give metres, rotation vectors in radians, and a gripper from 0 (closed) to 1 (open)",
            )


def check_context(model: WorldModel, frames: np.ndarray, actions: np.ndarray, back: int) -> None:
    """Raise a UserError unless frames uint8 [B, C, H, W, 3] and the actions between them can be a context."""
    px = model.config.tokenizer.image_px
    if frames.dtype != np.uint8 or frames.ndim != 5 or not frames.size or frames.shape[2:] != (px, px, 3):
        raise UserError(
            f"context frames are {frames.dtype} {frames.shape}",
            f"give uint8 frames of shape (episodes, frames, {px}, {px}, 3)",
        )
    needed = (len(frames), frames.shape[1] - 1, ACTION_DIM)
    if actions.shape != needed or not np.isfinite(actions).all():
        raise UserError(
            f"context actions have shape {actions.shape}, the frames need {needed}, with finite values",
            "give one action between each two context frames",
        )
    if frames.shape[1] <= back:
        raise UserError(
            f"retracing goes {back} frames back, and the context has {frames.shape[1]}",
            f"give at least {back + 1} context frames",
        )
