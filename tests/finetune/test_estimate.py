"""`whale finetune world_model --dry-run`."""

from pathlib import Path

import torch
from tiny_model import tiny_config

from whale import cli
from whale.export import save_export
from whale.models.world_model import WorldModel

CONFIG = Path(__file__).resolve().parents[2] / "configs/finetune/shifted.yaml"


def test_the_plan_has_the_sizes_of_the_source(tmp_path, capsys):
    torch.manual_seed(0)
    model = WorldModel(tiny_config())
    save_export(tmp_path / "source", "world_model", model, model.config, {})
    assert cli.main(["finetune", "world_model", str(CONFIG), f"source={tmp_path / 'source'}", "--dry-run"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    count = sum(p.numel() for p in model.parameters()) + model.tokenizer.quantizer.codebook_VC.numel()
    assert ["total", f"{count / 1e6:.2f}", "M"] in lines


def test_without_its_source_nothing_is_known(tmp_path, capsys):
    assert cli.main(["finetune", "world_model", str(CONFIG), f"source={tmp_path / 'absent'}", "--dry-run"]) == 2
    assert "absent" in capsys.readouterr().err
