"""How tokens are chosen: their distribution, and what it depends on."""

import numpy as np
import pytest
import torch
from tiny_model import random_model

from whale.errors import UserError
from whale.sampling import Sampling, TokenChoice, expected_tokens, sampled_tokens


def test_expected_tokens_have_the_least_expected_distance():
    model = random_model()
    logits = 2 * torch.randn(3, 16, 32, dtype=torch.float64)
    codebook = model.tokenizer.quantizer.codebook_VC
    distance = torch.cdist(codebook, codebook).square()  # of choosing row v when column w is true
    best = (logits.softmax(-1) @ distance.T).argmin(-1)
    assert torch.equal(expected_tokens(logits, model.tokenizer), best)
    certain = torch.zeros(1, 16, 32, dtype=torch.float64)
    certain[..., 5] = 100.0
    assert (expected_tokens(certain, model.tokenizer) == 5).all()


def test_expected_tokens_are_the_same_under_autocast():
    """Validation runs under it."""
    torch.manual_seed(0)
    model, logits = random_model().float(), 2 * torch.randn(64, 16, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = expected_tokens(logits, model.tokenizer)
    assert torch.equal(found, expected_tokens(logits, model.tokenizer))


@pytest.mark.parametrize("top_k", [None, 3, 6])
def test_samples_follow_the_distribution(top_k):
    """Counts against softmax(logits / 2) by Pearson's chi-square; a token without mass is never drawn."""
    draws, temperature = 20_000, 2.0
    logits_V = torch.tensor([2.0, float("-inf"), 0.0, -1.0, 3.0, float("-inf")], dtype=torch.float64)
    tokens = sampled_tokens(logits_V.expand(1, draws, -1), temperature, [torch.Generator().manual_seed(0)], top_k)
    if top_k == 3:
        logits_V[3] = float("-inf")  # the fourth of those with mass
    expected = draws * (logits_V / temperature).softmax(-1)
    counts = torch.bincount(tokens[0], minlength=6)
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    statistic = ((counts - expected)[possible].square() / expected[possible]).sum()
    assert statistic < 16.27  # 0.1 % of the chi-square distribution with three degrees of freedom


def test_k_tokens_are_kept_where_more_are_as_likely():
    tokens = sampled_tokens(torch.zeros(1, 5000, 8), 1.0, [torch.Generator().manual_seed(0)], top_k=2)
    assert len(tokens.unique()) == 2


def test_a_choice_draws_for_its_rows_alone():
    model, logits = random_model(), torch.randn(3, 16, 32, dtype=torch.float64)
    choice = TokenChoice(Sampling(1.0, [3, 4, 5]), 3)
    first = choice(logits, model.tokenizer)
    other = choice.rows([2, 2])
    drawn = choice(logits, model.tokenizer)
    assert not torch.equal(drawn, first)
    twice = other(logits[[2, 2]], model.tokenizer)
    assert torch.equal(twice[0], drawn[2]) and torch.equal(twice[1], drawn[2])
    choice.put([1], TokenChoice(Sampling(1.0, [4]), 1))
    assert torch.equal(choice(logits, model.tokenizer)[1], first[1])


@pytest.mark.parametrize("how", [Sampling(-1.0, [0]), Sampling(float("nan"), [0]), Sampling(1.0, [0, 1])])
def test_sampling_that_cannot_be_is_refused(how):
    with pytest.raises(UserError, match=f"temperature {how.temperature}, {len(how.seeds)} seeds for 1 episodes"):
        TokenChoice(how, 1)


def test_seeds_may_be_an_array():
    model, logits = random_model(), torch.randn(2, 16, 32, dtype=torch.float64)
    found, expected = (
        TokenChoice(Sampling(1.0, seeds), 2)(logits, model.tokenizer) for seeds in (np.arange(2), [0, 1])
    )
    assert torch.equal(found, expected)
