import pytest
import torch
from torch import nn

from whale.errors import UserError
from whale.export import load_export, save_export


@pytest.mark.parametrize("kept", [0, 5, 40, -4])
def test_weights_cut_off_are_named(tmp_path, kept):
    save_export(tmp_path / "export", "tokenizer", nn.Linear(3, 2), {}, {})
    weights = tmp_path / "export" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(UserError) as refused:
        load_export(tmp_path / "export", nn.Linear(3, 2))
    assert str(weights) in str(refused.value)


def test_weights_come_back(tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_export(tmp_path / "export", "tokenizer", model, {}, {})
    load_export(tmp_path / "export", other)
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)
