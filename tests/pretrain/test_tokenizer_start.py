"""k-means over the training frames starts a tokenizer once, and not again where a checkpoint takes its place."""

import pytest
from tiny_clips import pixel_folder

from whale.checkpoint_folder import find_checkpoints
from whale.clips.loader import DataConfig, DataSource
from whale.loop import LoopConfig
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import TokenizerConfig, VideoTokenizer
from whale.pretrain.config import TrainTokenizerConfig
from whale.pretrain.train_tokenizer import train_tokenizer


@pytest.fixture
def config(tmp_path) -> TrainTokenizerConfig:
    pixel_folder(tmp_path / "pixels")
    quantizer = VQConfig(num_codes=64, dim=16)
    return TrainTokenizerConfig(
        run=tmp_path / "run", loop=LoopConfig(steps=2, save_every=1),
        data=DataConfig(sources=(DataSource(folder=tmp_path / "pixels"),), frames=4, batch=3, workers=0),
        model=TokenizerConfig(image_px=16, patch_px=4, quantizer=quantizer, width=16, heads=2, decoder_depth=1),
    )  # fmt: skip


def test_the_start_is_computed_only_where_it_is_used(config, monkeypatch):
    starts = []

    def counted(*arguments, initialise=VideoTokenizer.initialise):
        starts.append(1)
        initialise(*arguments)

    monkeypatch.setattr(VideoTokenizer, "initialise", counted)
    train_tokenizer(config)
    train_tokenizer(config)
    assert len(starts) == 1
    for checkpoint in find_checkpoints(config.run / "checkpoints"):
        (checkpoint.folder / "model.safetensors").write_bytes(b"damaged")
    train_tokenizer(config)
    assert len(starts) == 2
