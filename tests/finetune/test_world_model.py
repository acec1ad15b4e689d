"""Adaptation on tiny clips: what carries over, what is fitted anew, and that it helps."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_clips import pixel_folder, token_folder
from tiny_model import random_batch, randomise, tiny_config

from whale.clips.loader import DataConfig, DataSource
from whale.clips.merging import MergeConfig
from whale.errors import UserError
from whale.export import save_export
from whale.finetune.config import AdaptTokenizerConfig, WorldModelAdaptationConfig
from whale.finetune.recipe import adapt_tokenizer, build_model
from whale.finetune.train import adapt_world_model
from whale.loop import LoopConfig
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel
from whale.optim import OptimConfig
from whale.ranks import Ranks

LOOP = LoopConfig(steps=4, log_every=2, validate_every=4, save_every=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("finetune")
    pixel_folder(root / "pixels", train=6, val=6)
    torch.manual_seed(0)
    model = WorldModel(tiny_config())
    randomise(model)
    save_export(root / "source", "world_model", model, model.config, {})
    token_folder(root / "tokens", root / "pixels", root / "source")
    return root


def config(root: Path, run: Path, **changes) -> WorldModelAdaptationConfig:
    demos = DataConfig(sources=(DataSource(folder=root / "pixels", clips=4),), frames=6, batch=2, workers=0)
    recipe = AdaptTokenizerConfig(loop=LOOP, frames=4, batch=2, optim=OptimConfig(warmup_steps=1))
    values = {"demos": demos, "tokenizer": recipe, "loop": LOOP, "optim": OptimConfig(warmup_steps=1)}
    return WorldModelAdaptationConfig(**{"run": run, "source": root / "source", **values, **changes})


def test_adapts_and_exports_with_own_statistics(root, tmp_path):
    adapt_world_model(config(root, tmp_path / "run"))
    source, adapted = WorldModel.from_pretrained(root / "source"), WorldModel.from_pretrained(tmp_path / "run/export")
    assert adapted.config.datasets["tabletop"] != source.config.datasets["tabletop"]
    assert adapted.tokenizer.fingerprint != source.tokenizer.fingerprint
    again = adapt_tokenizer(config(root, tmp_path / "run"), Ranks())  # finished: gives the same
    assert again.fingerprint == adapted.tokenizer.fingerprint


def test_demonstrations_are_merged_for_the_dynamics_and_not_for_the_tokenizer(root, tmp_path, capsys):
    demos = replace(config(root, tmp_path).demos, merge=MergeConfig(share=0.5))
    adapt_world_model(config(root, tmp_path / "run", demos=demos))
    assert capsys.readouterr().out.count("merged actions in 50 % of the clips of tabletop") == 1
    assert (tmp_path / "run/export").is_dir()


def test_weights_start_from_the_source_or_from_scratch(root, tmp_path):
    source = WorldModel.from_pretrained(root / "source")
    kept = config(root, tmp_path / "kept", tokenizer=None, statistics="source")
    model = build_model(kept, adapt_tokenizer(kept, Ranks()))
    assert all(value.equal(source.state_dict()[name]) for name, value in model.state_dict().items())
    assert model.config == source.config
    fresh = build_model(replace(kept, from_scratch=True), adapt_tokenizer(kept, Ranks()))
    assert fresh.tokenizer.fingerprint == source.tokenizer.fingerprint
    assert not fresh.dynamics.code_shift.bias.equal(source.dynamics.code_shift.bias)


def test_a_new_dataset_gets_its_own_embodiment_and_leaves_the_old_ones(root, tmp_path):
    old = tiny_config()
    renamed = replace(old, datasets={"a_set": old.datasets["tabletop"], "zebra": old.datasets["tabletop"]})
    model = WorldModel(renamed)
    randomise(model)
    save_export(tmp_path / "source", "world_model", model, renamed, {})
    settings = config(root, tmp_path / "run", source=tmp_path / "source", tokenizer=None)
    adapted = build_model(settings, adapt_tokenizer(settings, Ranks()))
    assert list(adapted.scales) == ["a_set", "tabletop", "zebra"]
    rows, before = adapted.dynamics.embodiment.weight, model.dynamics.embodiment.weight
    assert rows[0].equal(before[0]) and rows[2].equal(before[1]) and rows[1].abs().sum() == 0
    with pytest.raises(UserError, match="was not trained on tabletop"):
        build_model(replace(settings, statistics="source"), adapt_tokenizer(settings, Ranks()))


def test_what_is_known_per_code_moves_with_the_code(root, tmp_path):
    """The same codebook in another order is the same model: logits are permuted, nothing else changes."""
    kept = config(root, tmp_path / "run", tokenizer=None, statistics="source")
    tokenizer = adapt_tokenizer(kept, Ranks())
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    tokenizer.quantizer.codebook_VC.copy_(tokenizer.quantizer.codebook_VC[order])
    source, adapted = WorldModel.from_pretrained(root / "source"), build_model(kept, tokenizer)
    batch = {name: v.float() if v.dtype == torch.float64 else v for name, v in random_batch(source).items()}
    place = torch.argsort(order)  # where each of the source's codes stands now

    def logits(model, tokens):
        features = model.action_features(batch)
        prior = model.prior(model.behavior.summary(model.codes(tokens)), features)
        return model.predict(tokens, features, prior.mean, batch).logits_BTSV

    ours, theirs = logits(adapted, place[batch["tokens"]]), logits(source, batch["tokens"])
    torch.testing.assert_close(ours, theirs[..., order])


def test_another_source_in_the_middle_is_refused(root, tmp_path):
    adapt_world_model(config(root, tmp_path / "run"))
    other = tmp_path / "other"
    shutil.copytree(root / "source", other)
    with pytest.raises(UserError, match="source: "):
        adapt_world_model(config(root, tmp_path / "run", source=other))


def test_frames_and_tokenizers_of_another_size_are_refused(root, tmp_path):
    pixel_folder(tmp_path / "large", train=4, val=2, size_px=32)
    large = DataConfig(sources=(DataSource(folder=tmp_path / "large"),), frames=6, batch=2, workers=0)
    with pytest.raises(UserError, match="takes 16 px"):
        adapt_world_model(config(root, tmp_path / "run", demos=large))
    settings = config(root, tmp_path / "run")
    wide = VideoTokenizer(replace(tiny_config().tokenizer, quantizer=VQConfig(num_codes=64, dim=12)))
    with pytest.raises(UserError, match="another configuration"):
        build_model(settings, wide)


def test_windows_shorter_than_two_bands_are_refused(root, tmp_path):
    demos = DataConfig(sources=(DataSource(folder=root / "pixels", clips=4),), frames=5, batch=2, workers=0)
    with pytest.raises(UserError, match="shorter than two bands of 3 frames"):
        adapt_world_model(config(root, tmp_path / "run", demos=demos))


def test_token_clips_are_refused(root, tmp_path):
    tokens = DataConfig(sources=(DataSource(folder=root / "tokens"),), frames=6, batch=2, workers=0)
    with pytest.raises(UserError, match="holds token clips"):
        adapt_world_model(config(root, tmp_path / "run", demos=tokens))
