"""The count against PyTorch's own, on models of odd sizes; what is masked away is counted apart."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import CARD, random_batch, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from whale.models.behavior import BehaviorConfig
from whale.models.dynamics import DynamicsConfig
from whale.models.flops import forward_flops, imagined_flops, keys_per_query, training_flops
from whale.models.frame_cache import band_mask
from whale.models.fsq import FSQConfig
from whale.models.local_encoder import window_mask
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import TokenizerConfig, VideoTokenizer
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.rollout import Imagination

ODD = WorldModelConfig(
    tokenizer=TokenizerConfig(
        image_px=30, patch_px=6, quantizer=VQConfig(num_codes=37, dim=10), encoder_depth=3, decoder_depth=3,
        width=42, heads=3, decoder_frames=2,
    ),
    dynamics=DynamicsConfig(width=60, heads=5, depth=3, band=3),
    behavior=BehaviorConfig(dim=7, width=28, heads=2, depth=2, token_dim=5),
    datasets={"a": CARD, "b": CARD},
)  # fmt: skip
BLIND = replace(ODD, dynamics=replace(ODD.dynamics, action_blind=True))
FSQ = replace(ODD, tokenizer=replace(ODD.tokenizer, quantizer=FSQConfig(levels=(5, 4, 3)), encoder_width=18))
CONFIGS = {"tiny": tiny_config(), "odd": ODD, "blind": BLIND, "fsq": FSQ}


def counted(call) -> tuple[float, float]:
    """FLOPs of attention's scores and weighted sums, and of all else."""
    linear = torch.ops.mkldnn._linear_pointwise  # what `whale.models.linear` calls where nothing is learned
    mapping = {linear: lambda x, weight, *_, out_shape: 2 * math.prod(x) * weight[0]}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        call()
    operations = {str(name): float(flops) for name, flops in counter.get_flop_counts()["Global"].items()}
    scores = sum(flops for name, flops in operations.items() if "bmm" in name or "attention" in name)
    return scores, sum(operations.values()) - scores


def pairs(frames: int, band: int) -> float:
    """Pairs of frames, per frame, that causal attention of this width looks at."""
    return float(band_mask(frames, frames, band, torch.device("cpu")).sum()) / frames


def score_flops(model: WorldModel, pairs_per_frame: float) -> float:
    """Per frame, of all attention layers of behaviour and dynamics: a score and a weighted sum for each pair."""
    dynamics, behavior, places = model.config.dynamics, model.config.behavior, model.config.tokenizer.grid**2 + 1
    space, time = dynamics.width * places**2, dynamics.width * places * pairs_per_frame
    return 4 * (dynamics.depth * (space + time) + behavior.depth * behavior.width * pairs_per_frame)


def loss_path(model: WorldModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Everything that the loss takes from the model, summed."""
    codes, features = model.codes(batch["tokens"]), model.action_features(batch)
    summary = model.behavior.summary(codes)
    prior = model.prior(summary, features)
    posterior = model.behavior.infer_posterior(summary, features, batch["valid"].float())
    z = posterior.mean[:, None].expand_as(prior.mean)
    likelihood = model.behavior.action_log_prob(summary, z, batch["actions"], batch["action_mask"])
    out = model.predict(batch["tokens"], features, prior.mean, batch)
    return sum(value.sum() for value in (prior.log_std, likelihood, *out))


def single(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.float() if v.dtype == torch.float64 else v for k, v in batch.items()}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("frames", [2, 5, 8])
def test_world_model(name, frames):
    """Exact; but that attention which is written out scores all pairs of frames, those outside the band too."""
    model = WorldModel(CONFIGS[name])
    batch, band = single(random_batch(model, 2, frames)), model.config.dynamics.band
    scores, others = counted(lambda: loss_path(model, batch))
    needed, computed = (2 * frames * score_flops(model, seen) for seen in (pairs(frames, band), frames))
    assert others + needed == pytest.approx(2 * frames * sum(forward_flops(model.config, frames).values()), rel=1e-12)
    assert needed <= scores <= computed


TOKENIZERS = {
    "tiny": tiny_config().tokenizer,
    "odd": ODD.tokenizer,
    "fsq": replace(ODD.tokenizer, quantizer=FSQConfig(levels=(5, 4, 3))),
    "wide encoder": replace(ODD.tokenizer, encoder_width=36),
    "encoder that sees around": replace(ODD.tokenizer, encoder_width=36, encoder_reach=1),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizer(name):
    model = VideoTokenizer(TOKENIZERS[name])
    config = model.config
    size, tokens, width = config.image_px, config.tokens_per_frame, config.width
    frames = torch.randint(256, (4, size, size, 3), dtype=torch.uint8)

    def call():
        x_NSC = model.encode_patches(model.patchify(frames))
        code, _ = model.quantizer(x_NSC.flatten(0, 1))
        model.decode_codes(code.view(x_NSC.shape)[None])

    scores, others = counted(call)
    layers = {(width, tokens, tokens): config.decoder_depth, (width, pairs(4, config.decoder_frames), 4): 1}
    if config.encoder_reach:
        mask = window_mask(config.grid, config.encoder_reach)
        layers[(config.encoder_width, float(mask.sum()) / tokens, tokens)] = 1
    needed = sum(4 * 4 * tokens * num * channels * seen for (channels, seen, _), num in layers.items())
    computed = sum(4 * 4 * tokens * num * channels * places for (channels, _, places), num in layers.items())
    assert others + needed == pytest.approx(4 * sum(forward_flops(config, 4).values()), rel=1e-12)
    assert needed <= scores <= computed


@pytest.mark.parametrize("reach", [1, 2, 7])
def test_encoder_with_a_reach(reach):
    """A layer of attention more, whose places see those in their window alone."""
    near, own = (replace(FSQ.tokenizer, encoder_reach=r) for r in (reach, 0))
    places, width = own.tokens_per_frame, own.encoder_width
    more = forward_flops(near, 4)["encoder"] - forward_flops(own, 4)["encoder"]
    assert more == pytest.approx(8 * places * width**2 + 4 * width * int(window_mask(own.grid, reach).sum()))


@pytest.mark.parametrize("name", ["tiny", "odd", "fsq"])
def test_an_imagined_frame(name):
    """Of four episodes (fewer are repeated in places); but for scores, which the cache may compute in other ways."""
    model = WorldModel(CONFIGS[name]).eval()
    dynamics, tokenizer, context = model.config.dynamics, model.config.tokenizer, 6
    frames = np.zeros((4, context, tokenizer.image_px, tokenizer.image_px, 3), np.uint8)
    imagination = Imagination(model, frames, np.zeros((4, context - 1, 7), np.float32), next(iter(model.scales)), 0.2)
    imagination.frame()
    flops, places = imagined_flops(model.config), tokenizer.tokens_per_frame
    _, latent = counted(lambda: imagination.step(np.zeros((4, 7), np.float32)))
    needed = 4 * (flops["latent"] - score_flops(model, dynamics.band))
    assert needed - 1 <= latent <= needed + 1 + 8 * dynamics.width  # the control period may enter once or every frame
    _, decode = counted(imagination.frame)
    scores = 4 * places * tokenizer.width * (tokenizer.decoder_depth * places + tokenizer.decoder_frames)
    assert decode == pytest.approx(4 * (flops["decode"] - scores), rel=1e-9)


def test_backward_is_twice_forward():
    """But for inputs that need no gradient: codes, actions and the control period."""
    model = WorldModel(ODD)
    model.tokenizer.requires_grad_(False)
    batch = single(random_batch(model, 2, 2))
    _, forward = counted(lambda: loss_path(model, batch))
    _, both = counted(lambda: loss_path(model, batch).backward())
    assert 0.95 * 3 * forward < both < 3 * forward
    assert training_flops(ODD, 2) == 3 * sum(forward_flops(ODD, 2).values())


def test_look_up_of_codes_has_no_backward():
    parts = forward_flops(ODD.tokenizer, 4)
    rest = sum(flops for part, flops in parts.items() if part != "quantizer")
    assert training_flops(ODD.tokenizer, 4) == pytest.approx(parts["quantizer"] + 3 * rest)


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_keys_in_the_band(frames, band):
    assert keys_per_query(frames, band) == pytest.approx(pairs(frames, band))


def test_six_flops_a_parameter():
    """For a wide model, a token costs 6 FLOPs a parameter in training (Kaplan et al., 2020), attention apart."""
    wide = replace(ODD, dynamics=DynamicsConfig(width=1024, heads=16, depth=22, band=8))
    parts = forward_flops(wide, 16)
    tokens = wide.tokenizer.tokens_per_frame + 1
    blocks = parts["spatial attention"] + parts["temporal attention"] + parts["feed-forward"]
    scores = 4 * 1024 * 22 * tokens * (tokens + keys_per_query(16, 8))
    assert (blocks - scores) / tokens == pytest.approx(2 * 22 * 16 * 1024**2, rel=0.01)
