"""The loss of dynamics and behaviour (docs/method.md, section 2).

behaviour:  mean_t log pi(a_t | o_t, z)  -  beta mean_h KL( q(z | tau_H) || p(z | tau_h) ),   z ~ q
dynamics:   mean_h log T(o_{h+1}, r_h | tau_h, a_h, z_h),                                     z_h ~ p(z | tau_h)
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whale.config import configclass
from whale.models.behavior import Gaussian, kl_divergence
from whale.models.world_model import WorldModel
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.masked import Counts, masked_mean, mean_of
from whale.ranks import total


@configclass
class DynamicsLossConfig:
    """Weights of the terms."""

    reward: float = 0.5
    """Weight of the squared error of the scaled reward."""
    termination: float = 0.1
    """Weight of the cross-entropy of termination."""
    behavior: float = 0.2
    """Weight of the behaviour objective (action likelihood and its KL)."""
    beta: float = 1e-3
    """Weight of the KL inside the behaviour objective."""
    token_noise: float = 0.05
    """Share of context tokens replaced by another token of the batch, against compounding error; 0 turns it off."""


def replace_tokens(tokens_BTS: Tensor, valid_BT: Tensor, share: float, noise: ClipNoise) -> Tensor:
    """Replace a share of the tokens, drawn anew for each, by tokens drawn from the valid frames of the same clip.

    Padding follows the valid frames.
    """
    num_BT1 = (valid_BT.sum(1) * tokens_BTS.shape[2])[:, None, None]
    hit_BTS = noise.uniform(*tokens_BTS.shape[1:]) < share
    drawn_BTS = (noise.uniform(*tokens_BTS.shape[1:]) * num_BT1).long()
    other_BTS = tokens_BTS.flatten(1).gather(1, drawn_BTS.flatten(1)).view_as(tokens_BTS)
    return torch.where(hit_BTS, other_BTS, tokens_BTS)


def _next_valid(valid_BT: Tensor) -> Tensor:
    """Frames that are predicted from the one before, bool [B, T - 1]."""
    return valid_BT[:, 1:] & valid_BT[:, :-1]


def dynamics_loss(
    model: WorldModel, batch: dict[str, Tensor], counts: Counts, config: DynamicsLossConfig, noise: ClipNoise
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch (the dict of `whale.clips.loader`), and the figures to log; `counts` as of the objective."""
    tokens_BTS, valid_BT = batch["tokens"], batch["valid"]
    context_BTS = tokens_BTS
    if config.token_noise > 0:
        context_BTS = replace_tokens(tokens_BTS, valid_BT, config.token_noise, noise)
    action_BTF = model.action_features(batch)
    summary_BTD = model.behavior.summary(model.codes(tokens_BTS))
    prior = model.prior(summary_BTD, action_BTF)
    z_BTZ = prior.sample(noise.normal(*prior.mean.shape[1:]).to(prior.mean))
    out = model.predict(context_BTS, action_BTF, z_BTZ, batch)

    next_BT = _next_valid(valid_BT)
    entropy_BTS = F.cross_entropy(out.logits_BTSV[:, :-1].flatten(0, 2), tokens_BTS[:, 1:].flatten(), reduction="none")
    entropy_BTS = entropy_BTS.view(tokens_BTS[:, 1:].shape)
    cross_entropy = masked_mean(entropy_BTS.mean(-1), next_BT, counts["next"])
    reward = masked_mean(
        (out.reward_BT - model.scale_reward(batch)).square(), batch["reward_mask"], counts["reward"]
    )
    termination = masked_mean(
        F.binary_cross_entropy_with_logits(out.terminated_BT, batch["terminated"].float(), reduction="none"),
        batch["terminated_mask"],
        counts["terminated"],
    )
    behavior, behavior_figures = _behavior_loss(
        model, summary_BTD, action_BTF, prior, batch, counts, config, noise
    )
    loss = cross_entropy + config.reward * reward + config.termination * termination + config.behavior * behavior

    with torch.no_grad():
        right_BTS = out.logits_BTSV[:, :-1].argmax(-1) == tokens_BTS[:, 1:]
        moved_BTS = (tokens_BTS[:, 1:] != tokens_BTS[:, :-1]) & next_BT[..., None]
        figures = {
            "cross_entropy": cross_entropy,
            "reward_error": reward,
            "termination": termination,
            "moved_accuracy": mean_of(right_BTS.float(), moved_BTS),
            **behavior_figures,
        }
    return loss, {name: value.detach() for name, value in figures.items()}


def _behavior_loss(
    model: WorldModel,
    summary_BTD: Tensor,
    action_BTF: Tensor,
    prior: Gaussian,
    batch: dict[str, Tensor],
    counts: Counts,
    config: DynamicsLossConfig,
    noise: ClipNoise,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative behaviour objective per actuated action dimension, with the likelihoods that show what z carries."""
    valid_BT, mask_BTA = batch["valid"], batch["action_mask"]
    posterior = model.behavior.infer_posterior(summary_BTD, action_BTF, valid_BT.float())
    noise_BZ = noise.normal(*posterior.mean.shape[1:]).to(posterior.mean)
    frames = valid_BT.shape[1]

    def likelihood(z_BTZ: Tensor) -> Tensor:
        log_prob_BT = model.behavior.action_log_prob(summary_BTD, z_BTZ, batch["actions"], mask_BTA)
        return masked_mean(log_prob_BT, valid_BT, counts["action"])

    z_BTZ = posterior.sample(noise_BZ)[:, None].expand(-1, frames, -1)
    spread = Gaussian(*(value[:, None].expand(-1, frames, -1) for value in posterior))
    kl = masked_mean(kl_divergence(spread, prior), valid_BT, counts["valid"])
    log_prob = likelihood(z_BTZ)
    with torch.no_grad():
        figures = {
            "behavior_kl": kl,
            "action_log_prob": log_prob,
            "action_log_prob_prior": likelihood(prior.mean),
            "action_log_prob_zero": likelihood(torch.zeros_like(prior.mean)),
        }
    return config.beta * kl - log_prob, figures


class DynamicsObjective(nn.Module):
    """Trains dynamics and behaviour of a world model on token batches; the tokenizer stays as it is.

    `held_out` is a list of batches it validates on.
    """

    def __init__(self, model: WorldModel, config: DynamicsLossConfig, held_out: list[dict[str, Tensor]]):
        super().__init__()
        self.model, self.config, self._held_out = model, config, held_out
        model.tokenizer.requires_grad_(False)

    def counts(self, batch: dict[str, Tensor]) -> Counts:
        """How many entries the means of the loss are over."""
        valid_BT = batch["valid"]
        masks = {"valid": valid_BT, "next": _next_valid(valid_BT), "action": batch["action_mask"]}
        masks |= {"reward": batch["reward_mask"], "terminated": batch["terminated_mask"]}
        return {name: mask.sum().float() for name, mask in masks.items()}

    def forward(
        self, batch: dict[str, Tensor], counts: Counts, noise: ClipNoise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch, of tokens or of frames that are tokenized here, and figures to log."""
        return dynamics_loss(self.model, self._tokenized(batch), counts, self.config, noise)

    def _tokenized(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if "tokens" in batch:
            return batch
        frames_BTHW3 = batch["frames"]
        tokens_MS = self.model.tokenizer.encode(frames_BTHW3.flatten(0, 1))
        return {**batch, "tokens": tokens_MS.unflatten(0, frames_BTHW3.shape[:2])}

    def after_step(self, generator: torch.Generator) -> dict[str, float]:
        """Everything learns by gradient."""
        return {}

    def validate(self) -> dict[str, float]:
        """Teacher-forced figures over this rank's held-out batches, without token noise: of ranks, take the mean."""
        totals: dict[str, float] = {}
        parts = total(torch.tensor(float(len(self._held_out))))
        counted = [self.counts(batch) for batch in self._held_out]
        shares = {name: total(sum((one[name] for one in counted), torch.tensor(0.0))) / parts for name in counted[0]}
        for batch in self._held_out:
            device = self.model.dynamics.position_RD.device
            quiet = replace(self.config, token_noise=0.0)
            on_device = self._tokenized({name: value.to(device) for name, value in batch.items()})
            noise = ClipNoise(0, 0, on_device["position"])
            counts = {name: share.to(device) for name, share in shares.items()}
            _, figures = dynamics_loss(self.model, on_device, counts, quiet, noise)
            for name, value in figures.items():
                totals[name] = totals.get(name, 0.0) + value.item() / len(self._held_out)
        return totals
