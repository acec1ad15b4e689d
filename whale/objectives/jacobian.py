"""A penalty on the Jacobian of the latent dynamics, which damps how errors propagate (arXiv 2501.00195; docs/method.md,
section 4).

F maps the code vectors e of one frame to the expected code vectors of the next, all else as it is: the frames before,
the action, z, the present tokens' copy gate. J = dF/de; the penalty estimates ||J||_F^2 over the number of inputs.

Legend: B clips, T frames, S tokens a frame, C code dim, V codes.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from whale.config import configclass
from whale.errors import UserError
from whale.models.dynamics import expected_codes
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.noise import rms


@configclass
class JacobianConfig:
    """The penalty, at one frame of some of the clips."""

    weight: float = 0.0
    """Weight of ||J||_F^2 over the number of inputs; at 0 nothing is computed."""
    estimator: Literal["finite_difference", "vjp"] = "finite_difference"
    """Difference of two passes, or the exact derivative (which goes backward twice; not under ZeRO 3)."""
    sigma: float = 0.1
    """Step of the difference, relative to the codebook's root mean square; under bf16 no less than 0.05."""
    every: int = 4
    """One clip in this many is penalised, at a frame drawn at random."""
    decay_steps: int = 0
    """Steps over which the weight falls to 0, linearly; 0 keeps it."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.weight < 0 or self.sigma <= 0 or self.every < 1 or self.decay_steps < 0:
            raise ValueError("weight and decay_steps are not negative, sigma is positive, every at least 1")

    def weight_at(self, step: int) -> float:
        """The weight at a step."""
        return self.weight * max(0.0, 1 - step / self.decay_steps) if self.decay_steps else self.weight


def check_engine(config: JacobianConfig, zero: int | None, recompute: bool) -> None:
    """Raise a UserError where the estimator cannot be had."""
    if not config.weight or config.estimator != "vjp":
        return
    twice = "loss.jacobian.estimator is vjp, which goes backward twice"
    if zero == 3:
        raise UserError(
            f"{twice}; ZeRO 3 has put the weights away by then",
            "set loss.jacobian.estimator=finite_difference, or engine.zero to 2 or less",
        )
    if recompute:  # the second time it would be outside of `vjp`, with fused attention and compiled blocks
        raise UserError(
            f"{twice}; engine.recompute would then compute in another way what the first time kept",
            "set loss.jacobian.estimator=finite_difference, or engine.recompute=false",
        )


Map = Callable[[Tensor], Tensor]
"""F: code vectors [B, S, C] to code vectors [B, S, C], clip by clip."""


def finite_difference(f: Map, e_BSC: Tensor, at_e_BSC: Tensor, u_BSC: Tensor, step: Tensor) -> Tensor:
    """||F(e + step u) - F(e)||^2 / step^2 for each clip, [B]; given F(e). Of a linear F it is ||J u||^2."""
    return ((f(e_BSC + step * u_BSC) - at_e_BSC) / step).square().sum((1, 2))


def vjp(f: Map, e_BSC: Tensor, v_BSC: Tensor) -> Tensor:
    """||J^T v||^2 for each clip, [B].

    Its gradient takes second derivatives, which fused attention and compiled blocks do not have: this pass has neither.
    """
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        e_BSC = e_BSC.detach().requires_grad_()
        (back_BSC,) = torch.autograd.grad((f(e_BSC) * v_BSC).sum(), e_BSC, create_graph=True)
    return back_BSC.square().sum((1, 2))


def penalty(
    predict: Callable[[Tensor, Tensor], Tensor],
    codes_BTSC: Tensor,
    logits_BTSV: Tensor,
    num_next_B: Tensor,
    codebook_VC: Tensor,
    config: JacobianConfig,
    noise: ClipNoise,
) -> Tensor:
    """The estimate for each clip, [B]: `every` times too large for the chosen ones, zero for all others.

    Args:
        predict: logits [R, T, S, V] of the clips in rows int64 [R], from code vectors [R, T, S, C] in place of theirs.
        codes_BTSC: what the model was given.
        logits_BTSV: what it made of that.
        num_next_B: frames of each clip that are followed by another; the penalty is at one of them.
        codebook_VC: the codes.
        config: the estimator.
        noise: draws the clips, the frames and the directions.
    """
    # Every part of a batch makes one more pass, of one clip at least: under ZeRO 3 all ranks call the model alike.
    chosen = noise.one_in(config.every)
    row_R = torch.tensor(chosen or [0], device=codes_BTSC.device)
    frame_R = (noise.uniform()[row_R] * num_next_B[row_R]).long()
    direction_RSC = noise.normal(*codes_BTSC.shape[2:])[row_R].to(codes_BTSC)
    here = torch.arange(len(row_R), device=row_R.device), frame_R
    codes_RTSC = codes_BTSC[row_R]
    e_RSC = codes_RTSC[here]

    def f(e_RSC: Tensor) -> Tensor:
        logits_RTSV = predict(codes_RTSC.index_put(here, e_RSC), row_R)
        return expected_codes(logits_RTSV[here], codebook_VC)

    if config.estimator == "vjp":
        value_R = vjp(f, e_RSC, direction_RSC)
    else:
        at_e_RSC = expected_codes(logits_BTSV[row_R, frame_R], codebook_VC)
        value_R = finite_difference(f, e_RSC, at_e_RSC, direction_RSC, config.sigma * rms(codebook_VC))
    scale = config.every / e_RSC[0].numel() if chosen else 0.0
    return value_R.new_zeros(len(codes_BTSC)).index_put((row_R,), scale * value_R)
