import torch
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as torch_kl

from whale.models.behavior import Gaussian, kl_divergence


def test_kl_equals_torch():
    torch.manual_seed(0)
    q, p = (Gaussian(torch.randn(4, 6).double(), 0.5 * torch.randn(4, 6).double()) for _ in range(2))
    as_torch = [Independent(Normal(g.mean, g.log_std.exp()), 1) for g in (q, p)]
    torch.testing.assert_close(kl_divergence(q, p), torch_kl(*as_torch))


def test_small_divergences_survive_bfloat16(model, batch):
    """Weights in bfloat16, as ZeRO holds them: what comes of a head is rounded, what comes of that is not."""
    behavior = model.behavior.bfloat16()
    summary = behavior.summary(model.codes(batch["tokens"]).bfloat16())
    prior = behavior.infer_prior(summary, model.action_features(batch).bfloat16())
    near = Gaussian(prior.mean, prior.log_std + 0.01)
    assert not torch.equal(near.log_std, prior.log_std)
    exact = kl_divergence(Gaussian(*(x.double() for x in near)), Gaussian(*(x.double() for x in prior)))
    torch.testing.assert_close(kl_divergence(near, prior).double(), exact, rtol=0.01, atol=0)


def test_action_likelihood_equals_torch_over_masked_dimensions(model, batch):
    behavior = model.behavior
    summary = behavior.summary(model.codes(batch["tokens"]))
    z = torch.randn(2, 8, 6, dtype=torch.float64)
    got = behavior.action_log_prob(summary, z, batch["actions"], batch["action_mask"])
    mean = behavior.decoder(torch.cat([summary, z], -1))
    each = Normal(mean, behavior.log_std_A.exp()).log_prob(batch["actions"])
    torch.testing.assert_close(got, each[..., [0, 1, 2, 6]].sum(-1))


def test_posterior_ignores_padding(model, batch):
    summary = model.behavior.summary(model.codes(batch["tokens"]))
    features = model.action_features(batch)
    valid = torch.ones(2, 8, dtype=torch.float64)
    valid[:, 5:] = 0
    spoiled = summary.clone()
    spoiled[:, 5:] += 10
    expected = model.behavior.infer_posterior(summary[:, :5], features[:, :5], valid[:, :5])
    for padded in (summary, spoiled):
        torch.testing.assert_close(model.behavior.infer_posterior(padded, features, valid).mean, expected.mean)
