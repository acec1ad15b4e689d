"""`whale pretrain export`: which weights, and which figures with them."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import prepare

from whale.checkpoint import AVERAGE, WEIGHTS
from whale.cli import main
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel
from whale.tracker import read_metrics


@pytest.mark.parametrize("decay", [None, 0.5])
def test_an_export_has_the_weights_and_figures_of_its_step(tmp_path, decay):
    runs, run = prepare(tmp_path / "tiny"), tmp_path / "run"
    settings = {"loop__steps": 4, "loop__validate_every": 2, "loop__save_every": 1, "loop__keep": 4}
    assert main([str(word) for word in runs.words("dynamics", run, optim__ema_decay=decay, **settings)]) == 0
    for step in (2, 3):
        out = tmp_path / f"export_{step}"
        assert main(["pretrain", "export", f"run={run}", f"out={out}", f"step={step}"]) == 0
        model = WorldModel.from_pretrained(out)
        stored = load_file(run / f"checkpoints/step_{step:07d}" / (WEIGHTS if decay is None else AVERAGE))
        assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
        logged = [line for line in read_metrics(run / "metrics.jsonl") if line["step"] == step]
        validated = {k.removeprefix("val/"): v for line in logged for k, v in line.items() if k.startswith("val/")}
        assert model.record["figures"] == validated and bool(validated) == (step == 2)
        assert model.record["tokenizer"] == VideoTokenizer.from_pretrained(tmp_path / "tiny/source").record
        card = (out / "README.md").read_text()
        assert ("decay 0.5" in card) == (decay is not None) and ("## Figures of the last" in card) == (step == 2)
