"""Behaviour-conditioning (WHALE, section 3.1; docs/method.md): who acts, inferred from what was done.

A posterior q(z | whole segment) and a prior p(z | past) over a behaviour embedding z, and an action decoder
pi(a_t | o_t, z) that makes z carry the behaviour. The dynamics only ever see the prior.

Legend: B batch, T frames, S tokens a frame, C code dim, F features of the action, D width, Z embedding dim, A action
dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from whale.actions import ACTION_DIM
from whale.config import configclass
from whale.models.frame_cache import Sight
from whale.models.layers import ResidualSwiGLU, check_heads
from whale.models.linear import Linear
from whale.models.st_transformer import SpatialTemporalTransformer


@configclass
class BehaviorConfig:
    """Size of the behaviour networks."""

    dim: int = 64
    """Z, the dimension of the embedding."""
    width: int = 128
    """D."""
    heads: int = 4
    """N."""
    depth: int = 1
    """Layers of the prior and of the posterior."""
    token_dim: int = 8
    """Channels kept of each token in the frame summary."""

    def __post_init__(self) -> None:
        """Check the heads."""
        check_heads(self.width, self.heads)


class Gaussian(NamedTuple):
    """A diagonal Gaussian, both [..., Z]."""

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Reparametrised draw with the given standard-normal noise."""
        return self.mean + self.log_std.exp() * noise


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) in nats, summed over the last dimension, in float32 at least: in bfloat16 small ones are lost."""
    q, p = (Gaussian(*(x.to(torch.promote_types(x.dtype, torch.float32)) for x in one)) for one in (q, p))
    variance_ratio = (2 * (q.log_std - p.log_std)).exp()
    distance = ((q.mean - p.mean) / p.log_std.exp()).square()
    return 0.5 * (variance_ratio + distance - 1 - 2 * (q.log_std - p.log_std)).sum(-1)


class FrameSummary(nn.Module):
    """One vector a frame that keeps where things are: a few channels of every token, side by side."""

    def __init__(self, code_dim: int, tokens_per_frame: int, config: BehaviorConfig):
        super().__init__()
        self.shrink = Linear(code_dim, config.token_dim)
        self.project = Linear(config.token_dim * tokens_per_frame, config.width)

    def forward(self, codes_BTSC: Tensor) -> Tensor:
        """[B, T, S, C] -> [B, T, D]."""
        return self.project(self.shrink(codes_BTSC).flatten(-2))


class Behavior(nn.Module):
    """Prior, posterior and action decoder."""

    def __init__(self, code_dim: int, tokens_per_frame: int, action_features: int, band: int, config: BehaviorConfig):
        super().__init__()
        self.config = config
        self.summary = FrameSummary(code_dim, tokens_per_frame, config)
        self.action_in = Linear(action_features, config.width)
        self.prior = SpatialTemporalTransformer(config.width, config.heads, config.depth, band, has_space=False)
        self.posterior = nn.Sequential(*(ResidualSwiGLU(config.width) for _ in range(config.depth)))
        self.prior_out = Linear(config.width, 2 * config.dim)
        self.posterior_out = Linear(config.width, 2 * config.dim)
        self.decoder = nn.Sequential(
            Linear(config.width + config.dim, config.width),
            ResidualSwiGLU(config.width),
            Linear(config.width, ACTION_DIM),
        )
        self.log_std_A = nn.Parameter(torch.zeros(ACTION_DIM))

    def _gaussian(self, out: Tensor) -> Gaussian:
        mean, log_std = out.to(self.log_std_A.dtype).chunk(2, -1)
        return Gaussian(mean, log_std.clamp(-5, 2))

    def infer_prior(self, summary_BTD: Tensor, previous_BTF: Tensor, sight: Sight | None = None) -> Gaussian:
        """p(z | tau_h) for every h: frames up to h and the actions before it, [B, T, Z]; causal and banded.

        `previous_BTF` holds the features of the action before each frame, zero before the first.
        """
        x_BTD = summary_BTD + self.action_in(previous_BTF)
        return self._gaussian(self.prior_out(self.prior(x_BTD[:, :, None], sight)[:, :, 0]))

    def infer_posterior(self, summary_BTD: Tensor, actions_BTF: Tensor, valid_BT: Tensor) -> Gaussian:
        """q(z | tau_H) of the segment, [B, Z]: a mean over its steps (o_t, a_t) in any order, padding left out."""
        h_BTD = self.posterior(summary_BTD + self.action_in(actions_BTF))
        weight_BT = valid_BT / valid_BT.sum(1, keepdim=True)
        return self._gaussian(self.posterior_out((h_BTD * weight_BT[..., None]).sum(1)))

    def action_log_prob(self, summary_BTD: Tensor, z_BTZ: Tensor, actions_BTA: Tensor, mask_BTA: Tensor) -> Tensor:
        """Log pi(a_t | o_t, z) in nats over the dimensions in `mask_BTA`, [B, T]."""
        mean_BTA = self.decoder(torch.cat([summary_BTD, z_BTZ], -1))
        normal = torch.distributions.Normal(mean_BTA, self.log_std_A.clamp(-4, 2).exp(), validate_args=False)
        return (normal.log_prob(actions_BTA) * mask_BTA).sum(-1)
