"""Noise on the context: its size, its schedule, and that it belongs to the clip."""

import pytest
import torch

from whale.objectives.clip_noise import ClipNoise
from whale.objectives.noise import NO_NOISE, NoiseConfig, nearest_codes, noisy_context, rms

CODES, DIM = 32, 12


@pytest.fixture
def codebook():
    return 3 * torch.randn(CODES, DIM, generator=torch.Generator().manual_seed(0))


def context(codebook, config, clips=8, step=0, near=None):
    tokens = torch.randint(CODES, (8, 20, 16), generator=torch.Generator().manual_seed(1))[:clips]
    noise = ClipNoise(0, step, torch.arange(clips))
    valid = torch.ones(clips, 20, dtype=torch.bool)
    return tokens, *noisy_context(tokens, valid, codebook, near, config, noise)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_draws_for_a_gpu_wait_for_nothing_and_are_those_of_a_cpu():
    torch.zeros(1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = ClipNoise(0, 3, torch.arange(4), "cuda").normal(5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert drawn.is_cuda and torch.equal(drawn.cpu(), ClipNoise(0, 3, torch.arange(4)).normal(5))


def test_nothing_is_the_identity(codebook):
    tokens, noisy, codes = context(codebook, NO_NOISE)
    assert torch.equal(noisy, tokens) and torch.equal(codes, codebook[tokens])


@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_gaussian_noise_has_the_mean_and_deviation_asked_for(codebook, drift):
    tokens, noisy, codes = context(codebook, NoiseConfig(tokens=0.0, sigma=0.2, drift=drift))
    assert torch.equal(noisy, tokens)  # the copy gate still stands at the token
    error = (codes - codebook[tokens]) / rms(codebook)
    assert abs(float(error.mean()) - drift) < 0.005 and abs(float(error.std()) - 0.2) < 0.005
    assert float((error.flatten(0, 2).mean(0) - drift).abs().max()) < 0.02  # in every channel


def test_drift_alone_draws_nothing(codebook):
    tokens, _, codes = context(codebook, NoiseConfig(tokens=0.0, drift=-0.5))
    torch.testing.assert_close(codes, codebook[tokens] - 0.5 * rms(codebook))


def test_noise_grows_over_the_ramp(codebook):
    config = NoiseConfig(tokens=0.4, sigma=0.2, ramp_steps=100)
    for step, part in ((0, 0.0), (50, 0.5), (100, 1.0), (500, 1.0)):
        tokens, noisy, codes = context(codebook, config, step=step)
        assert abs(float((noisy != tokens).float().mean()) - 0.4 * part * (1 - 1 / CODES)) < 0.02
        assert abs(float(((codes - codebook[noisy]) / rms(codebook)).std()) - 0.2 * part) < 0.005


def test_neighbours_are_the_nearest_codes_and_all_of_them_are_drawn(codebook):
    near = nearest_codes(codebook, 3)
    for code in range(CODES):
        distance = (codebook - codebook[code]).square().sum(-1)
        assert near[code].tolist() == distance.argsort()[1:4].tolist()
    tokens, noisy, _ = context(codebook, NoiseConfig(tokens=0.3, neighbors=3), near=near)
    changed = noisy != tokens
    assert abs(float(changed.float().mean()) - 0.3) < 0.02
    place = (near[tokens[changed]] == noisy[changed][:, None]).float().mean(0)
    assert float((place - 1 / 3).abs().max()) < 0.06


def test_noise_belongs_to_the_clip(codebook):
    config = NoiseConfig(tokens=0.3, sigma=0.2)
    whole, part = context(codebook, config)[2], context(codebook, config, clips=3)[2]
    assert torch.equal(part, whole[:3])
    assert not torch.equal(context(codebook, config, step=1)[2], whole)


def test_ranges_are_checked():
    with pytest.raises(ValueError, match="is a share"):
        NoiseConfig(tokens=1.5)
    with pytest.raises(ValueError, match="are not negative"):
        NoiseConfig(sigma=-0.1)
