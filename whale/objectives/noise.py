"""Noise on the context that the dynamics are trained on (docs/method.md, section 4).

Zero-drift noise on latents regularises a world model (arXiv 2501.00195), and a model that has met wrong tokens stands
its own mistakes in a rollout. A drift, a mean that is not zero, is there to be studied: it adds a bias that compounds.

Legend: B clips, T frames, S tokens a frame, C code dim, V codes, K neighbours.
"""

import torch
from torch import Tensor

from whale.config import configclass
from whale.errors import UserError
from whale.objectives.clip_noise import ClipNoise


@configclass
class NoiseConfig:
    """Noise on context tokens and on their code vectors, drawn anew for each; what is zero is not computed."""

    tokens: float = 0.05
    """Share of context tokens replaced by another token."""
    neighbors: int = 0
    """Replace by one of this many codes nearest to the token's own; 0 draws from the valid frames of the clip."""
    sigma: float = 0.0
    """Standard deviation of Gaussian noise on code vectors, relative to the codebook's root mean square."""
    drift: float = 0.0
    """Mean of that noise in every channel, in the same unit."""
    ramp_steps: int = 0
    """Steps over which all of it grows from nothing, linearly."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.tokens <= 1:
            raise ValueError(f"tokens {self.tokens} is a share, in [0, 1]")
        if min(self.neighbors, self.sigma, self.ramp_steps) < 0:
            raise ValueError("neighbors, sigma and ramp_steps are not negative")


NO_NOISE = NoiseConfig(tokens=0.0)


def rms(codebook_VC: Tensor) -> Tensor:
    """Root mean square of the entries of a codebook, the unit of noise on code vectors."""
    return codebook_VC.square().mean().sqrt()


@torch.no_grad()
def nearest_codes(codebook_VC: Tensor, num: int) -> Tensor:
    """The `num` codes nearest to each code, itself left out: int64 [V, K].

    Raises:
        UserError: there are not so many.
    """
    if num >= len(codebook_VC):
        raise UserError(
            f"loss.noise.neighbors is {num}, and beside each of the tokenizer's codes there are {len(codebook_VC) - 1}",
            "choose fewer",
        )
    near = []
    for start in range(0, len(codebook_VC), 4096):
        distance_MV = torch.cdist(codebook_VC[start : start + 4096], codebook_VC)
        distance_MV.diagonal(start).fill_(torch.inf)
        near.append(distance_MV.topk(num, largest=False).indices)
    return torch.cat(near)


def replace_tokens(
    tokens_BTS: Tensor, valid_BT: Tensor, share: float, noise: ClipNoise, near_VK: Tensor | None = None
) -> Tensor:
    """Replace a share of the tokens by tokens drawn from the valid frames of the same clip, or by near codes.

    Padding follows the valid frames.
    """
    hit_BTS = noise.uniform(*tokens_BTS.shape[1:]) < share
    draw_BTS = noise.uniform(*tokens_BTS.shape[1:])
    if near_VK is not None:
        pick_BTS1 = (draw_BTS * near_VK.shape[1]).long()[..., None]
        return torch.where(hit_BTS, near_VK[tokens_BTS].gather(-1, pick_BTS1)[..., 0], tokens_BTS)
    num_BT1 = (valid_BT.sum(1) * tokens_BTS.shape[2])[:, None, None]
    other_BTS = tokens_BTS.flatten(1).gather(1, (draw_BTS * num_BT1).long().flatten(1)).view_as(tokens_BTS)
    return torch.where(hit_BTS, other_BTS, tokens_BTS)


def noisy_context(
    tokens_BTS: Tensor, valid_BT: Tensor, codebook_VC: Tensor, near_VK: Tensor | None, config: NoiseConfig,
    noise: ClipNoise,
) -> tuple[Tensor, Tensor]:
    """Context tokens and their code vectors [B, T, S, C] with noise; `near_VK` of `nearest_codes`, where wanted."""
    ramp = min(1.0, noise.step / config.ramp_steps) if config.ramp_steps else 1.0
    if config.tokens > 0:
        tokens_BTS = replace_tokens(tokens_BTS, valid_BT, config.tokens * ramp, noise, near_VK)
    codes_BTSC = codebook_VC[tokens_BTS]
    unit = ramp * rms(codebook_VC)
    if config.drift:
        codes_BTSC = codes_BTSC + unit * config.drift
    if config.sigma:
        codes_BTSC = codes_BTSC + unit * config.sigma * noise.normal(*codes_BTSC.shape[1:]).to(codes_BTSC)
    return tokens_BTS, codes_BTSC
