"""Finite scalar quantisation: the grid, its order, and the start from principal components."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whale.config import build_config, to_values
from whale.models.fsq import FiniteScalarQuantizer, FSQConfig
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import TokenizerConfig, VideoTokenizer

levels = st.lists(st.integers(2, 8), min_size=1, max_size=4).map(tuple)


@given(levels)
def test_codes_are_the_whole_grid_and_find_themselves(levels):
    quantizer = FiniteScalarQuantizer(FSQConfig(levels=levels))
    codebook, every = quantizer.codebook_VC, torch.arange(quantizer.config.num_codes)
    assert quantizer.nearest(codebook).equal(every)
    assert len(codebook.unique(dim=0)) == len(codebook) == quantizer.config.num_codes
    assert [len(column.unique()) for column in codebook.T] == list(levels)


@given(levels, st.integers(0, 100))
def test_nearest_equals_brute_force_and_bounding_reaches_every_level(levels, seed):
    quantizer = FiniteScalarQuantizer(FSQConfig(levels=levels))
    x = 2 * torch.randn(300, len(levels), generator=torch.Generator().manual_seed(seed))
    expected = torch.cdist(x.double(), quantizer.codebook_VC.double()).argmin(-1)
    assert quantizer.nearest(x).equal(expected)
    assert quantizer.bound(torch.zeros(1, len(levels))).abs().max() < 1e-6
    for sign in (-100, 100):
        code = quantizer.codebook_VC[quantizer.nearest(quantizer.bound(torch.full((1, len(levels)), sign)))][0]
        edge = quantizer.codebook_VC.amin(0) if sign < 0 else quantizer.codebook_VC.amax(0)
        assert code.equal(edge)


def test_even_and_odd_numbers_of_levels_as_in_the_paper():
    quantizer = FiniteScalarQuantizer(FSQConfig(levels=(4, 5)))
    assert quantizer.codebook_VC[:, 0].unique().tolist() == [-1, -0.5, 0, 0.5]
    assert quantizer.codebook_VC[:, 1].unique().tolist() == [-1, -0.5, 0, 0.5, 1]


def test_gradient_passes_straight_through_the_rounding():
    quantizer, x = FiniteScalarQuantizer(FSQConfig(levels=(5, 4))), torch.randn(10, 2, requires_grad=True)
    bounded = quantizer.bound(x)
    code, token = quantizer(bounded)
    assert torch.allclose(code, quantizer.codebook_VC[token])
    (gradient,) = torch.autograd.grad(code.sum(), bounded, retain_graph=True)
    assert gradient.equal(torch.ones_like(gradient))
    code.sum().backward()
    assert (x.grad > 0).all() and (x.grad < 2).all()


def test_the_start_uses_all_levels_and_decodes_better_than_the_mean():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(64, 3, 3, 3, generator=generator)
    frames = torch.nn.functional.interpolate(smooth, 16, mode="bilinear").mul(255).byte().permute(0, 2, 3, 1)
    config = TokenizerConfig(
        image_px=16, patch_px=4, quantizer=FSQConfig(levels=(8, 5, 5)), width=16, heads=2, encoder_width=16,
        encoder_reach=1,
    )  # fmt: skip
    tokenizer = VideoTokenizer(config).eval()
    tokenizer.initialise(frames, torch.ones(64, 16), generator)
    tokens = tokenizer.encode(frames)
    share = torch.bincount(tokens.flatten(), minlength=200).reshape(5, 5, 8) / tokens.numel()
    for axes, count in (((0, 1), 8), ((0, 2), 5), ((1, 2), 5)):
        assert share.sum(axes).min() > 0.3 / count
    error = (tokenizer.decode(tokens[:, None])[:, 0].float() - frames.float()).square().mean()
    assert error < 0.2 * (frames.float() - frames.float().mean((0, 1, 2))).square().mean()


def test_a_configuration_says_which_quantiser_by_its_keys():
    fsq = TokenizerConfig(quantizer=FSQConfig(levels=(8, 5, 5, 5)))
    assert build_config(TokenizerConfig, to_values(fsq), "test") == fsq
    vq = build_config(TokenizerConfig, {"quantizer": {"num_codes": 32, "dim": 8}}, "test")
    assert vq.quantizer == VQConfig(num_codes=32, dim=8)
    with pytest.raises(ValueError, match="65536"):
        FSQConfig(levels=(256, 257))
