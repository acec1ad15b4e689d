"""The tokenizer's loss with LPIPS and with FSQ: parts of a batch, padding, gradients, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from whale.errors import UserError
from whale.model_card import FIGURES
from whale.models.flops import training_flops
from whale.models.fsq import FSQConfig
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import TokenizerConfig, VideoTokenizer
from whale.objectives.clip_noise import ClipNoise, seeded_generator
from whale.objectives.tokenizer_loss import TokenizerLossConfig, TokenizerObjective

WEIGHTS = Path(__file__).parents[3] / "shared/data/weights/lpips-alexnet.npz"
VQ = TokenizerConfig(image_px=32, patch_px=8, quantizer=VQConfig(num_codes=16, dim=8), width=16, heads=2)
FSQ = replace(VQ, quantizer=FSQConfig(levels=(4, 3)), encoder_width=16, encoder_reach=1)


def make(config, **loss) -> TokenizerObjective:
    torch.manual_seed(0)
    model = VideoTokenizer(config)
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape)
    return TokenizerObjective(model, TokenizerLossConfig(**loss), frames(3))


def frames(clips: int) -> torch.Tensor:
    return torch.randint(256, (clips, 4, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def batch(clips: int = 2) -> dict[str, torch.Tensor]:
    valid = torch.tensor([[True] * 4, [True, True, False, False]])[:clips]
    return {"frames": frames(clips), "valid": valid, "position": torch.arange(clips)}


def loss_of(objective, one, counts):
    return objective(one, counts, ClipNoise(0, 0, one["position"]))


@pytest.mark.parametrize("config", [VQ, FSQ], ids=["vq", "fsq"])
def test_every_parameter_receives_gradient_and_the_loss_is_a_mean_over_parts(config):
    objective, whole = make(config), batch()
    counts = objective.counts(whole)
    loss, _ = loss_of(objective, whole, counts)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in objective.model.parameters())
    halves = [{name: value[i : i + 1] for name, value in whole.items()} for i in range(2)]
    mean = sum(loss_of(objective, half, {"valid": counts["valid"] / 2})[0] for half in halves) / 2
    torch.testing.assert_close(mean, loss)
    extra = objective.after_step(seeded_generator(0, 0))
    assert ("revived_codes" in extra) == (config is VQ)
    figures = objective.validate()
    assert figures.keys() == {"psnr", "codebook_usage", "codebook_perplexity"}
    used = len(torch.cat([objective.model.encode(clip) for clip in frames(3)]).unique())
    assert figures["codebook_usage"] == pytest.approx(used / config.quantizer.num_codes)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the published weights are not here")
def test_lpips_is_added_over_real_frames_only_and_validated():
    objective, plain, padded = make(VQ, lpips=0.5, lpips_weights=WEIGHTS), make(VQ), batch()
    counts = objective.counts(padded)
    loss, figures = loss_of(objective, padded, counts)
    torch.testing.assert_close(loss, loss_of(plain, padded, counts)[0] + 0.5 * figures["lpips"])
    noisy = {**padded, "frames": torch.where(padded["valid"][..., None, None, None], padded["frames"], 0)}
    torch.testing.assert_close(loss_of(objective, noisy, counts)[0], loss)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in objective.model.parameters())
    assert len(list(objective.parameters())) == len(list(objective.model.parameters()))
    assert 0 < objective.validate()["lpips"] < 2 and objective.validate().keys() <= FIGURES.keys()


def test_lpips_needs_both_a_weight_and_weights(tmp_path):
    for given in ({"lpips": 1.0}, {"lpips_weights": tmp_path / "w.npz"}, {"lpips": -1.0}):
        with pytest.raises(ValueError, match="together with lpips_weights"):
            TokenizerLossConfig(**given)
    with pytest.raises(UserError, match="no file"):
        make(VQ, lpips=1.0, lpips_weights=tmp_path / "absent.npz")


def test_its_work_is_that_of_the_tokenizer():
    objective = make(VQ)
    assert objective.flops_per_frame(4) == training_flops(VQ, 4)
    assert objective.tokens_per_frame == 16
