"""What `whale.loop` trains when it trains dynamics and behaviour."""

import numpy as np
import torch
from torch import Tensor, nn

from whale.errors import UserError
from whale.models.flops import training_flops
from whale.models.world_model import WorldModel
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.dynamics_loss import DynamicsLossConfig, clip_counts, dynamics_loss
from whale.objectives.masked import Counts
from whale.objectives.noise import nearest_codes
from whale.objectives.validation import FOLLOWING, Tally, ValidationConfig, add_following, add_predictions

Batch = dict[str, Tensor]
NOTHING_ASKED = ValidationConfig()


class DynamicsObjective(nn.Module):
    """Trains dynamics and behaviour of a world model on token batches; the tokenizer stays as it is.

    Args:
        model: the world model.
        config: the loss.
        held_out: batches to validate on, of this rank.
        following: clips to imagine with their own and with other actions (`whale.validate.following_batch`).
        validation: what is asked of the figures.
    """

    near_VK: Tensor | None

    def __init__(
        self,
        model: WorldModel,
        config: DynamicsLossConfig,
        held_out: list[Batch],
        following: Batch | None = None,
        validation: ValidationConfig = NOTHING_ASKED,
    ):
        super().__init__()
        self.model, self.config, self._held_out = model, config, held_out
        self._following, self._validation = following, validation
        self._watched: Tensor | None = None
        model.tokenizer.requires_grad_(False)
        num, codebook_VC = config.noise.neighbors, model.tokenizer.quantizer.codebook_VC
        self.register_buffer("near_VK", nearest_codes(codebook_VC, num) if num else None, persistent=False)

    def counts(self, batch: Batch) -> Counts:
        """How many entries the means of the loss are over."""
        return {name: count_B.sum() for name, count_B in clip_counts(batch).items()}

    def forward(self, batch: Batch, counts: Counts, noise: ClipNoise) -> tuple[Tensor, Batch]:
        """Loss of one batch, of tokens or of frames that are tokenized here, and figures to log."""
        return dynamics_loss(self.model, self._tokenized(batch), counts, self.config, noise, self.near_VK)

    def _tokenized(self, batch: Batch) -> Batch:
        if "tokens" in batch:
            return batch
        frames_BTHW3 = batch["frames"]
        tokens_MS = self.model.tokenizer.encode(frames_BTHW3.flatten(0, 1))
        return {**batch, "tokens": tokens_MS.unflatten(0, frames_BTHW3.shape[:2])}

    def _on_device(self, batch: Batch) -> Batch:
        device = self.model.dynamics.position_RD.device
        return self._tokenized({k: v if k == "position" else v.to(device) for k, v in batch.items()})

    @property
    def tokens_per_frame(self) -> int:
        """S."""
        return self.model.config.tokenizer.tokens_per_frame

    def flops_per_frame(self, frames: int) -> float:
        """FLOPs of forward and backward for a frame of a clip of `frames` tokens; the Jacobian penalty is not in it."""
        return training_flops(self.model.config, frames)

    def after_step(self, generator: torch.Generator) -> dict[str, float]:
        """Everything learns by gradient."""
        return {}

    def validate(self) -> dict[str, float]:
        """Figures over the held-out clips of all ranks, the same on each (`whale.objectives.validation`)."""
        tally = Tally(self.model.config.datasets)
        for batch in self._held_out:
            add_predictions(self.model, self._on_device(batch), tally)
        if self._following is not None:
            batch = self._on_device(self._following)
            self._watched = add_following(self.model, batch, self.model.config.dynamics.band, tally)[0].cpu()
        return tally.figures()

    def videos(self) -> dict[str, np.ndarray]:
        """One held-out clip of the last validation, recorded beside imagined: uint8 [T, H, 2 W, 3]."""
        return {} if self._watched is None else {"recorded_imagined": self._watched.numpy()}

    def verdict(self, step: int, figures: dict[str, float]) -> UserError | None:
        """Why a run with these figures must not go on."""
        least, found = self._validation.min_action_following, figures.get(FOLLOWING)
        if least is None or step < self._validation.min_following_from or (found is not None and found >= least):
            return None
        measured = "not known: no held-out clip is long enough" if found is None else (
            f"{found:.2f} dB (standard error {figures.get(f'{FOLLOWING}_se', float('nan')):.2f} dB)"
        )
        return UserError(
            f"action_following at step {step} is {measured}; validation.min_action_following asks for {least} dB",
            "check the actions with `whale data_prep audit`, train for longer before it is asked "
            "(validation.min_following_from), or lower it",
        )
