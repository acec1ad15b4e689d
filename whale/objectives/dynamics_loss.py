"""The loss of dynamics and behaviour (docs/method.md, section 2).

behaviour:  mean_t log pi(a_t | o_t, z)  -  beta mean_h KL( q(z | tau_H) || p(z | tau_h) ),   z ~ q
dynamics:   mean_h log T(o_{h+1}, r_h | tau_h, a_h, z_h),                                     z_h ~ p(z | tau_h)
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from whale.config import configclass
from whale.models.behavior import Gaussian, kl_divergence
from whale.models.world_model import WorldModel
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.jacobian import JacobianConfig, penalty
from whale.objectives.masked import Counts, masked_mean, mean_of
from whale.objectives.noise import NoiseConfig, noisy_context


@configclass
class DynamicsLossConfig:
    """Weights of the terms, and what regularises them."""

    reward: float = 0.5
    """Weight of the squared error of the scaled reward."""
    termination: float = 0.1
    """Weight of the cross-entropy of termination."""
    behavior: float = 0.2
    """Weight of the behaviour objective (action likelihood and its KL)."""
    beta: float = 1e-3
    """Weight of the KL inside the behaviour objective."""
    noise: NoiseConfig = NoiseConfig()
    """Noise on the context, against compounding error."""
    jacobian: JacobianConfig = JacobianConfig()
    """Penalty on the Jacobian of the latent dynamics."""


class Term(NamedTuple):
    """A figure before its mean is taken."""

    value: Tensor
    """[B, ...]."""
    mask: Tensor
    """bool [B, ...]: where it is known."""
    per: str
    """Name of the count that its sum is divided by."""


def next_valid(valid_BT: Tensor) -> Tensor:
    """Frames that are predicted from the one before, bool [B, T - 1]."""
    return valid_BT[:, 1:] & valid_BT[:, :-1]


def _scored(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Where actions [B, T, 7] and rewards [B, T] are asked for: known, and those of one recorded step."""
    plain_BT = ~batch["merged"]
    return batch["action_mask"] & plain_BT[..., None], batch["reward_mask"] & plain_BT


def clip_counts(batch: dict[str, Tensor]) -> Counts:
    """How many entries the means of the loss are over, for each clip: float32 [B]."""
    valid_BT = batch["valid"]
    next_BT = next_valid(valid_BT)
    action_BTA, reward_BT = _scored(batch)
    masks = {"valid": valid_BT, "next": next_BT, "action": action_BTA, "reward": reward_BT}
    masks |= {"terminated": batch["terminated_mask"], "clip": next_BT.any(1, keepdim=True)}
    return {name: mask.flatten(1).sum(1).float() for name, mask in masks.items()}


def dynamics_loss(
    model: WorldModel,
    batch: dict[str, Tensor],
    counts: Counts,
    config: DynamicsLossConfig,
    noise: ClipNoise,
    near_VK: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch (the dict of `whale.clips.loader`), and the figures to log; `counts` as of the objective.

    `near_VK` is what `nearest_codes` gives, where noise takes neighbours.
    """
    terms = dynamics_terms(model, batch, config, noise, near_VK)
    moved = terms.pop("moved_accuracy")
    mean = {name: masked_mean(term.value, term.mask, counts[term.per]) for name, term in terms.items()}
    behavior = config.beta * mean["behavior_kl"] - mean["action_log_prob"]
    loss = mean["cross_entropy"] + config.reward * mean["reward_error"] + config.termination * mean["termination"]
    loss = loss + config.behavior * behavior
    if "jacobian" in mean:
        loss = loss + config.jacobian.weight_at(noise.step) * mean["jacobian"]
    figures = {**mean, "moved_accuracy": mean_of(moved.value, moved.mask)}
    return loss, {name: value.detach() for name, value in figures.items()}


def dynamics_terms(
    model: WorldModel,
    batch: dict[str, Tensor],
    config: DynamicsLossConfig,
    noise: ClipNoise,
    near_VK: Tensor | None = None,
) -> dict[str, Term]:
    """Everything that is optimised or logged, entry by entry; arguments as of `dynamics_loss`."""
    tokens_BTS, valid_BT, codebook_VC = batch["tokens"], batch["valid"], model.tokenizer.quantizer.codebook_VC
    context_BTS, codes_BTSC = noisy_context(tokens_BTS, valid_BT, codebook_VC, near_VK, config.noise, noise)
    action_BTF = model.action_features(batch)
    summary_BTD = model.behavior.summary(model.codes(tokens_BTS))
    prior = model.prior(summary_BTD, action_BTF)
    z_BTZ = prior.sample(noise.normal(*prior.mean.shape[1:]).to(prior.mean))
    keep = model.dynamics.draw_keep(noise.uniform) if model.training else None
    out = model.predict(context_BTS, action_BTF, z_BTZ, batch, keep=keep, codes=codes_BTSC)

    next_BT = next_valid(valid_BT)
    entropy_BTS = F.cross_entropy(out.logits_BTSV[:, :-1].flatten(0, 2), tokens_BTS[:, 1:].flatten(), reduction="none")
    entropy_BTS = entropy_BTS.view(tokens_BTS[:, 1:].shape)
    ended_BT = F.binary_cross_entropy_with_logits(out.terminated_BT, batch["terminated"].float(), reduction="none")
    terms = {
        "cross_entropy": Term(entropy_BTS.mean(-1), next_BT, "next"),
        "reward_error": Term((out.reward_BT - model.scale_reward(batch)).square(), _scored(batch)[1], "reward"),
        "termination": Term(ended_BT, batch["terminated_mask"], "terminated"),
        **_behavior_terms(model, summary_BTD, action_BTF, prior, batch, noise),
    }
    with torch.no_grad():
        right_BTS = out.logits_BTSV[:, :-1].argmax(-1) == tokens_BTS[:, 1:]
        moved_BTS = (tokens_BTS[:, 1:] != tokens_BTS[:, :-1]) & next_BT[..., None]
        terms["moved_accuracy"] = Term(right_BTS.float(), moved_BTS, "moved")

    if config.jacobian.weight_at(noise.step) > 0:

        def logits(codes_RTSC: Tensor, row_R: Tensor) -> Tensor:
            constant = {name: batch[name][row_R] for name in ("control_period_sec", "embodiment")}
            own = None if keep is None else keep[:, :, row_R]
            given = (context_BTS[row_R], action_BTF[row_R], z_BTZ[row_R], constant)
            return model.predict(*given, keep=own, codes=codes_RTSC).logits_BTSV

        value_B = penalty(
            logits, codes_BTSC, out.logits_BTSV, next_BT.sum(1), codebook_VC, config.jacobian, noise
        )
        terms["jacobian"] = Term(value_B, next_BT.any(1), "clip")
    return terms


def _behavior_terms(
    model: WorldModel,
    summary_BTD: Tensor,
    action_BTF: Tensor,
    prior: Gaussian,
    batch: dict[str, Tensor],
    noise: ClipNoise,
) -> dict[str, Term]:
    """KL and action likelihood per actuated dimension, with the likelihoods that show what z carries."""
    valid_BT, mask_BTA = batch["valid"], _scored(batch)[0]
    posterior = model.behavior.infer_posterior(summary_BTD, action_BTF, valid_BT.float())
    noise_BZ = noise.normal(*posterior.mean.shape[1:]).to(posterior.mean)
    frames = valid_BT.shape[1]

    def likelihood(z_BTZ: Tensor) -> Term:
        log_prob_BT = model.behavior.action_log_prob(summary_BTD, z_BTZ, batch["actions"], mask_BTA)
        return Term(log_prob_BT, valid_BT, "action")

    z_BTZ = posterior.sample(noise_BZ)[:, None].expand(-1, frames, -1)
    spread = Gaussian(*(value[:, None].expand(-1, frames, -1) for value in posterior))
    terms = {
        "behavior_kl": Term(kl_divergence(spread, prior), valid_BT, "valid"),
        "action_log_prob": likelihood(z_BTZ),
    }
    with torch.no_grad():
        terms["action_log_prob_prior"] = likelihood(prior.mean)
        terms["action_log_prob_zero"] = likelihood(torch.zeros_like(prior.mean))
    return terms
