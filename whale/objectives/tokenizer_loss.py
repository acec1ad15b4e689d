"""The tokenizer's objective: reconstruction plus commitment (van den Oord et al., 2017, equation 3), and LPIPS."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from whale.config import configclass
from whale.metrics.perceptual import LPIPS
from whale.models.flops import training_flops
from whale.models.quantizer import VectorQuantizer, draw_far
from whale.models.tokenizer import VideoTokenizer
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.masked import Counts
from whale.ranks import concatenate, total


@configclass
class TokenizerLossConfig:
    """Weights of the terms."""

    commitment: float = 0.05
    """Weight of the pull of encoder outputs towards their codes."""
    lpips: float = 0.0
    """Weight of LPIPS between decoded and real frames, at least 31 px a side."""
    lpips_weights: Path | None = None
    """AlexNet with the linear heads of LPIPS 0.1 (.npz); given if and only if `lpips` is not 0."""

    def __post_init__(self) -> None:
        """Check that LPIPS has both its weight and its weights, or neither."""
        if self.lpips < 0 or (self.lpips > 0) != (self.lpips_weights is not None):
            raise ValueError(f"lpips {self.lpips} is not negative, and given together with lpips_weights or not at all")


class TokenizerObjective(nn.Module):
    """Trains a video tokenizer on `frames` of a batch; `held_out` (uint8 [B, T, H, W, 3]) is what it validates on.

    Raises:
        UserError: the weights of LPIPS cannot be read.
    """

    def __init__(self, model: VideoTokenizer, config: TokenizerLossConfig, held_out: Tensor):
        super().__init__()
        self.model, self.config, self._held_out = model, config, held_out
        self._seen: list[tuple[Tensor, Tensor]] = []
        self.lpips = None if config.lpips_weights is None else LPIPS(config.lpips_weights)

    def counts(self, batch: dict[str, Tensor]) -> Counts:
        """How many entries the means of the loss are over."""
        return {"valid": batch["valid"].sum().float()}

    def forward(
        self, batch: dict[str, Tensor], counts: Counts, noise: ClipNoise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch of frames uint8 [B, T, H, W, 3]; the codebook moves in `after_step`."""
        frames_BTHW3, quantizer = batch["frames"], self.model.quantizer
        patches_BTSP = self.model.patchify(frames_BTHW3.flatten(0, 1)).unflatten(0, frames_BTHW3.shape[:2])
        x_BTSC = self.model.encode_patches(patches_BTSP)
        code_MC, token_M = quantizer(x_BTSC.flatten(0, 2))
        decoded_BTSP = self.model.decode_codes(code_MC.view(x_BTSC.shape))
        valid_BT = batch["valid"][..., None, None]
        error = ((decoded_BTSP - patches_BTSP).square() * valid_BT).sum() / (
            counts["valid"] * patches_BTSP[0, 0].numel()
        )
        real_M = batch["valid"][..., None].expand(x_BTSC.shape[:3]).flatten()
        x_MC, token_M = x_BTSC.flatten(0, 2)[real_M], token_M[real_M]
        commitment = (x_MC - quantizer.codebook_VC[token_M]).square().sum() / (counts["valid"] * x_BTSC[0, 0].numel())
        if isinstance(quantizer, VectorQuantizer):
            self._seen.append((x_MC.detach(), token_M))
        figures = {"psnr": 10 * (4 / error.detach()).log10(), "commitment": commitment.detach()}  # patches span [-1, 1]
        loss = error + self.config.commitment * commitment
        if self.lpips is not None:
            decoded_NHW3, real_NHW3 = (
                self.model.unpatchify(x.flatten(0, 1)) / 127.5 - 1 for x in (decoded_BTSP, patches_BTSP)
            )
            lpips = (self.lpips(decoded_NHW3, real_NHW3) * batch["valid"].flatten()).sum() / counts["valid"]
            loss, figures["lpips"] = loss + self.config.lpips * lpips, lpips.detach()
        return loss, figures

    def after_step(self, generator: torch.Generator) -> dict[str, float]:
        """Move the codebook towards what all ranks used it for; `generator` is the same on all of them."""
        quantizer = self.model.quantizer
        if not isinstance(quantizer, VectorQuantizer):
            return {}
        x_MC, token_M = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        dead_V = quantizer.update(*(total(value) for value in quantizer.use_of(x_MC, token_M)))
        num_dead = int(dead_V.sum())
        if num_dead:
            distances, own = concatenate(quantizer.distance(x_MC, token_M))
            drawn = draw_far(distances, num_dead, generator)
            mine = (drawn >= own.start) & (drawn < own.stop)
            vectors = torch.zeros(num_dead, x_MC.shape[1], device=x_MC.device)
            vectors[mine] = x_MC[drawn[mine] - own.start].float()
            quantizer.place(dead_V, total(vectors))
        return {"revived_codes": float(num_dead)}

    def verdict(self, step: int, figures: dict[str, float]) -> None:
        """Nothing is asked of the figures."""

    def videos(self) -> dict[str, np.ndarray]:
        """None."""
        return {}

    def validate(self) -> dict[str, float]:
        """PSNR (dB), codebook usage and perplexity over the held-out frames, LPIPS where it is trained on.

        Every rank scores all of them, so that the mean over ranks is each figure itself.
        """
        held_out = self._held_out.to(self.model.position_SD.device)
        tokens_BTS = torch.stack([self.model.encode(clip) for clip in held_out])
        decoded = torch.cat([self.model.decode(tokens_BTS[i : i + 8]) for i in range(0, len(tokens_BTS), 8)])
        error = (decoded.float() - held_out.float()).square().mean((2, 3, 4)).clamp_min(1 / 12)
        share_V = torch.bincount(tokens_BTS.flatten(), minlength=self.model.num_codes) / tokens_BTS.numel()
        perplexity = torch.exp(-(share_V * share_V.clamp_min(1e-12).log()).sum())
        figures = {
            "psnr": float((10 * (255**2 / error).log10()).mean()),
            "codebook_usage": float((share_V > 0).float().mean()),
            "codebook_perplexity": float(perplexity),
        }
        if self.lpips is not None:
            clips = zip(decoded.float(), held_out.float(), strict=True)
            figures["lpips"] = float(torch.cat([self.lpips(x / 127.5 - 1, y / 127.5 - 1) for x, y in clips]).mean())
        return figures

    @property
    def tokens_per_frame(self) -> int:
        """S."""
        return self.model.config.tokens_per_frame

    def flops_per_frame(self, frames: int) -> float:
        """FLOPs of forward and backward per frame of a clip of that many frames; those of LPIPS are not counted."""
        return training_flops(self.model.config, frames)
