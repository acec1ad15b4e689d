"""Both pretraining tasks on tiny clips: they train, resume exactly, survive kills, and refuse what does not fit."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_clips import pixel_folder, token_folder

from whale.checkpoint import prune
from whale.checkpoint_folder import find_checkpoints
from whale.clips.loader import DataConfig, DataSource
from whale.clips.merging import MergeConfig
from whale.config import dump_config
from whale.engine import EngineConfig, open_engine
from whale.errors import UserError
from whale.loop import LoopConfig
from whale.models.behavior import BehaviorConfig
from whale.models.dynamics import DynamicsConfig
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import TokenizerConfig, VideoTokenizer
from whale.models.world_model import WorldModel
from whale.objectives.validation import ValidationConfig
from whale.optim import OptimConfig
from whale.pretrain.config import ExportConfig, TrainDynamicsConfig, TrainTokenizerConfig
from whale.pretrain.train_dynamics import export, train_dynamics
from whale.pretrain.train_tokenizer import train_tokenizer
from whale.ranks import Ranks
from whale.tracker import read_metrics

SMALL = TokenizerConfig(
    image_px=16, patch_px=4, quantizer=VQConfig(num_codes=64, dim=16), width=16, heads=2, decoder_depth=1
)
LOOP = LoopConfig(steps=8, log_every=1, validate_every=4, save_every=3)


def tokenizer_config(root: Path, run: Path) -> TrainTokenizerConfig:
    data = DataConfig(sources=(DataSource(folder=root / "pixels"),), frames=4, batch=3, workers=0)
    return TrainTokenizerConfig(run=run, data=data, loop=LOOP, model=SMALL, optim=OptimConfig(warmup_steps=2))


def dynamics_config(root: Path, run: Path, **loop) -> TrainDynamicsConfig:
    data = DataConfig(sources=(DataSource(folder=root / "tokens"),), frames=6, batch=3, workers=0)
    return TrainDynamicsConfig(
        run=run, data=data, tokenizer=root / "tokenizer/export", loop=replace(LOOP, **loop),
        dynamics=DynamicsConfig(width=16, heads=2, depth=1, band=3), behavior=BehaviorConfig(dim=4, width=16, heads=2),
        optim=OptimConfig(warmup_steps=2), validation=ValidationConfig(batches=2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pretrain")
    pixel_folder(root / "pixels")
    train_tokenizer(tokenizer_config(root, root / "tokenizer"))
    token_folder(root / "tokens", root / "pixels", root / "tokenizer/export")
    return root


@pytest.fixture(scope="module")
def undisturbed(root) -> Path:
    train_dynamics(dynamics_config(root, root / "undisturbed"))
    return root / "undisturbed"


def assert_same_run(left: Path, right: Path) -> None:
    """The last checkpoint, optimiser state included, and the logged losses are equal to the last bit."""
    for name in ("model.safetensors", "optimizer.safetensors"):
        mine, other = (load_file(find_checkpoints(run / "checkpoints")[-1].folder / name) for run in (left, right))
        assert mine.keys() == other.keys()
        assert all(mine[key].equal(other[key]) for key in mine), name
    lines = [read_metrics(run / "metrics.jsonl") for run in (left, right)]
    losses = [[(line["step"], line["loss"]) for line in run if "loss" in line] for run in lines]
    assert losses[0] == losses[1]


def test_tokenizer_run_leaves_what_is_promised(root):
    run = root / "tokenizer"
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "export"} <= names
    assert [c.step for c in find_checkpoints(run / "checkpoints")] == [6, 8]
    figures = json.loads((run / "export/config.json").read_text())["training"]["figures"]
    assert figures["psnr"] > 15 and 0 < figures["codebook_usage"] <= 1
    assert figures["codebook_perplexity"] <= 64


def test_tokenizer_resumes_to_the_last_bit(root, tmp_path):
    config = tokenizer_config(root, tmp_path / "run")
    train_tokenizer(config)
    last = find_checkpoints(config.run / "checkpoints")[-1]
    for file in last.folder.iterdir():
        file.unlink()
    last.folder.rmdir()
    train_tokenizer(config)  # from step 6
    assert_same_run(config.run, root / "tokenizer")


def test_a_tokenizer_killed_in_its_first_save_starts_from_the_same_codebook(root, tmp_path):
    config = tokenizer_config(root, tmp_path / "run")
    (config.run / "checkpoints/.tmp-step_0000003").mkdir(parents=True)
    train_tokenizer(config)
    assert_same_run(config.run, root / "tokenizer")


def test_dynamics_learns_and_exports(undisturbed):
    lines = [m for m in read_metrics(undisturbed / "metrics.jsonl") if "loss" in m]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {"cross_entropy", "grad_norm", "frames_per_sec", "data_wait", "action_log_prob_zero"} <= lines[0].keys()
    model = WorldModel.from_pretrained(undisturbed / "export")
    card = model.config.datasets["tabletop"]
    assert card.action_status == (2, 2, 2, 1, 1, 1, 2) and card.reward_std > 0
    tokenizer = VideoTokenizer.from_pretrained(undisturbed.parent / "tokenizer/export")
    assert model.tokenizer.fingerprint == tokenizer.fingerprint


def test_killed_anywhere_and_started_again_it_ends_the_same(root, undisturbed, tmp_path):
    """SIGKILL at moments spread over the run, until it gets through."""
    config = dynamics_config(root, tmp_path / "killed", save_every=1)
    text = tmp_path / "killed.yaml"
    text.write_text(dump_config(config))
    kills = 0
    for delay_sec in (0.05, 0.2, 0.4, 600):
        command = [sys.executable, "-m", "whale", "pretrain", "dynamics", str(text)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ})
        begun, start = config.run / "config.yaml", time.monotonic()
        while not begun.exists() and process.poll() is None and time.monotonic() - start < 120:
            time.sleep(0.02)
        try:
            out, _ = process.communicate(timeout=delay_sec)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            out, _ = process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, out.decode()
        break
    assert kills >= 1
    assert_same_run(config.run, undisturbed)


def test_damaged_checkpoint_is_named_and_passed_over(root, undisturbed, tmp_path, capsys):
    config = dynamics_config(root, tmp_path / "damaged")
    train_dynamics(config)
    weights = find_checkpoints(config.run / "checkpoints")[-1].folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    capsys.readouterr()
    train_dynamics(config)
    said = capsys.readouterr().out
    assert f"passing over {weights.parent}" in said and "going on from" in said
    assert_same_run(config.run, undisturbed)


def test_damaged_checkpoints_do_not_push_out_sound_ones(root, undisturbed, tmp_path):
    config = dynamics_config(root, tmp_path / "damaged", save_every=1, keep=2)
    train_dynamics(config)
    for checkpoint in find_checkpoints(config.run / "checkpoints"):  # steps 7 and 8
        (checkpoint.folder / "model.safetensors").write_bytes(b"")
    prune(config.run / "checkpoints", 6, 2, ())
    earlier = config.run / "checkpoints/step_0000001"
    earlier.mkdir()
    (earlier / "COMPLETE").write_text("{}")
    prune(config.run / "checkpoints", 1, 2, ())
    assert [c.step for c in find_checkpoints(config.run / "checkpoints")] == [1, 7, 8]


def test_number_of_workers_changes_nothing(root, undisturbed, tmp_path):
    config = dynamics_config(root, tmp_path / "workers")
    train_dynamics(replace(config, data=replace(config.data, workers=2)))
    assert_same_run(config.run, undisturbed)


def test_merged_actions_are_announced_and_resume_to_the_last_bit(root, undisturbed, tmp_path, capsys):
    config = dynamics_config(root, tmp_path / "whole")
    config = replace(config, data=replace(config.data, merge=MergeConfig(share=0.5)))
    train_dynamics(config)
    assert "merged actions in 50 % of the clips of tabletop" in capsys.readouterr().out
    losses = [[line["loss"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line]
              for run in (config.run, undisturbed)]  # fmt: skip
    assert losses[0] != losses[1]
    again = replace(config, run=tmp_path / "again")
    train_dynamics(again)
    shutil.rmtree(find_checkpoints(again.run / "checkpoints")[-1].folder)
    train_dynamics(replace(again, data=replace(again.data, workers=1)))  # from step 6
    assert_same_run(again.run, config.run)


def test_milestones_stay_and_can_be_exported(root, tmp_path):
    config = dynamics_config(root, tmp_path / "run", milestones=(2,), keep=1)
    train_dynamics(config)
    assert [c.step for c in find_checkpoints(config.run / "checkpoints")] == [2, 8]
    export(ExportConfig(run=config.run, out=tmp_path / "early", step=2))
    early, late = WorldModel.from_pretrained(tmp_path / "early"), WorldModel.from_pretrained(config.run / "export")
    assert early.checkpoint_hash != late.checkpoint_hash
    with pytest.raises(UserError, match=r"no complete checkpoint of step 5"):
        export(ExportConfig(run=config.run, out=tmp_path / "none", step=5))


def test_what_does_not_fit_is_refused(root, undisturbed, tmp_path):
    config = dynamics_config(root, undisturbed)
    with pytest.raises(UserError, match=r"loss\.beta: 0\.001 -> 0\.5"):
        train_dynamics(replace(config, loss=replace(config.loss, beta=0.5)))
    with pytest.raises(UserError, match="shorter than two bands"):
        train_dynamics(replace(config, data=replace(config.data, frames=5)))
    pixels = replace(config.data, sources=(DataSource(folder=root / "pixels"),))
    with pytest.raises(UserError, match="were made by tokenizer None"):
        train_dynamics(replace(config, run=tmp_path / "x", data=pixels))
    tokenizer = tokenizer_config(root, tmp_path / "y")
    with pytest.raises(UserError, match="configured for 32 px"):
        train_tokenizer(replace(tokenizer, model=replace(SMALL, image_px=32)))


def test_tokens_of_another_tokenizer_are_refused(root, tmp_path):
    other = tokenizer_config(root, tmp_path / "other")
    train_tokenizer(replace(other, loop=replace(other.loop, seed=other.loop.seed + 1)))
    made, given = (VideoTokenizer.from_pretrained(folder).fingerprint for folder in
                   (root / "tokenizer/export", tmp_path / "other/export"))
    config = replace(dynamics_config(root, tmp_path / "run"), tokenizer=tmp_path / "other/export")
    with pytest.raises(UserError, match=rf"(?s)tokens were made by tokenizer {made}.*is {given}"):
        train_dynamics(config)
    assert not (tmp_path / "run").exists()


def test_a_world_model_export_gives_its_tokenizer(root, undisturbed, tmp_path):
    config = dynamics_config(root, tmp_path / "run", steps=1)
    train_dynamics(replace(config, tokenizer=undisturbed / "export"))
    fingerprints = [VideoTokenizer.from_pretrained(run / "export").fingerprint for run in (config.run, undisturbed)]
    assert fingerprints[0] == fingerprints[1]


def test_same_dataset_with_two_statistics_is_refused(root, tmp_path):
    pixel_folder(root / "other_pixels", train=5)
    token_folder(root / "other_tokens", root / "other_pixels", root / "tokenizer/export")
    config = dynamics_config(root, tmp_path / "run")
    both = (*config.data.sources, DataSource(folder=root / "other_tokens"))
    with pytest.raises(UserError, match="two sources hold 'tabletop'"):
        train_dynamics(replace(config, data=replace(config.data, sources=both)))


class Linear(torch.nn.Module):
    """The smallest objective."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(2, 1)

    def forward(self, value):
        return self.model(torch.full((1, 2), value)).sum(), {}


def test_a_gradient_that_is_not_finite_changes_nothing():
    objective = Linear()
    engine = open_engine(EngineConfig(device="cpu"), objective, objective.model, OptimConfig(name="adamw"), 1, Ranks())
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    engine.accumulate(True, float("nan"))
    assert not math.isfinite(engine.step(1.0))
    assert all(value.equal(before[name]) for name, value in objective.model.state_dict().items())


def test_a_loss_that_is_not_finite_stops_before_the_update(root, tmp_path):
    config = dynamics_config(root, tmp_path / "diverged")
    hot = replace(config, optim=OptimConfig(lr=1e20, muon_lr=1e20, warmup_steps=0, grad_clip=1e20))
    with pytest.raises(UserError, match=r"at step \d+, samples \d+ to \d+;"):
        train_dynamics(hot)
