import json
import re

import pytest
import torch
from tiny_model import tiny_config

from whale.errors import UserError
from whale.export import EXPORT_VERSION, load_export, read_export, save_export
from whale.models.tokenizer import VideoTokenizer


def tokenizer() -> VideoTokenizer:
    return VideoTokenizer(tiny_config().tokenizer)


@pytest.mark.parametrize("kept", [0, 5, 40, -4])
def test_weights_cut_off_are_named(tmp_path, kept):
    model = tokenizer()
    save_export(tmp_path / "export", "tokenizer", model, model.config, {})
    weights = tmp_path / "export" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(UserError) as refused:
        load_export(tmp_path / "export", tokenizer())
    assert str(weights) in str(refused.value)


def test_weights_come_back(tmp_path):
    model, other = tokenizer(), tokenizer()
    save_export(tmp_path / "export", "tokenizer", model, model.config, {})
    load_export(tmp_path / "export", other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not the config.json of an exported model"),
        ('{"model_type": "bert"}', "not the config.json of an exported model"),
        (json.dumps({"export_version": EXPORT_VERSION + 1, "whale": "9.9"}), "load it with whale 9.9"),
    ],
)
def test_a_config_that_is_no_export_of_this_version_is_named(tmp_path, content, said):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        read_export(tmp_path)
    assert str(tmp_path) in str(refused.value)
