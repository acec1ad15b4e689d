"""Data that does not fit is refused before the first step, with the file named; what is met later stops the run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_clips import spoil, tabletop_clip, token_folder, write_folder
from tiny_model import randomise, tiny_config

from whale.clips.clip import ActionType
from whale.clips.loader import DataConfig, DataSource
from whale.clips.reader import ClipReader
from whale.errors import UserError
from whale.export import save_export
from whale.finetune.config import WorldModelAdaptationConfig
from whale.finetune.train import adapt_world_model
from whale.loop import LoopConfig
from whale.models.behavior import BehaviorConfig
from whale.models.dynamics import DynamicsConfig
from whale.models.world_model import WorldModel
from whale.objectives.validation import ValidationConfig
from whale.optim import OptimConfig
from whale.pretrain.config import TrainDynamicsConfig
from whale.pretrain.train_dynamics import train_dynamics
from whale.tracker import read_metrics

SPLITS = ["train"] * 8 + ["val"] * 3


def clips(change=lambda clip: clip, splits=SPLITS):
    return [change(tabletop_clip(seed, 9, 16, split)) for seed, split in enumerate(splits)]


def write_pixels(folder: Path, *arguments, **options) -> Path:
    return write_folder(folder, clips(*arguments, **options))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    torch.manual_seed(0)
    model = WorldModel(tiny_config())
    randomise(model)
    save_export(root / "source", "world_model", model, model.config, {})
    write_pixels(root / "pixels")
    token_folder(root / "tokens", root / "pixels", root / "source")
    return root


def config(root: Path, run: Path, *folders: Path) -> TrainDynamicsConfig:
    sources = tuple(DataSource(folder=folder) for folder in folders or (root / "tokens",))
    return TrainDynamicsConfig(
        run=run, data=DataConfig(sources=sources, frames=6, batch=4, workers=0), tokenizer=root / "source",
        loop=LoopConfig(steps=6, log_every=1, validate_every=2, save_every=100), optim=OptimConfig(warmup_steps=1),
        dynamics=DynamicsConfig(width=16, heads=2, depth=1, band=3), behavior=BehaviorConfig(dim=4, width=16, heads=2),
        validation=ValidationConfig(batches=1, following_clips=3, following_horizon=4),
    )  # fmt: skip


def refused(config: TrainDynamicsConfig) -> str:
    with pytest.raises(UserError) as caught:
        train_dynamics(config)
    assert not list((config.run / "checkpoints").glob("*"))
    return str(caught.value)


def test_a_mixture_that_names_an_absent_dataset(root, tmp_path):
    said = refused(config(root, tmp_path / "run", root / "tokens", tmp_path / "nowhere"))
    assert f"{tmp_path / 'nowhere'} holds no manifest.json" in said and "remedy: check the path" in said


def test_a_dataset_without_held_out_clips(root, tmp_path):
    pixels = write_pixels(tmp_path / "pixels", splits=["train"] * 4)
    folder = tmp_path / "tokens"
    only_train = [
        replace(clip, info=replace(clip.info, tokenizer=ClipReader(root / "tokens", "train").manifest.tokenizer),
                frames=None, tokens=np.zeros((9, 16), np.uint16))
        for clip in map(ClipReader(pixels, "train").read, range(4))
    ]  # fmt: skip
    write_folder(folder, only_train, only_train[0].info.tokenizer)
    assert f"{folder} has no clips in the split 'val'" in refused(config(root, tmp_path / "run", folder))


@pytest.mark.parametrize(("still", "named"), [([1], "dy"), ([0, 1, 2, 6], "dx, dy, dz, gripper")])
def test_actuated_dimensions_that_never_change(root, tmp_path, still, named):
    def freeze(clip):
        actions = clip.actions.copy()
        actions[:, still] = 0.25
        return replace(clip, actions=actions)

    write_pixels(tmp_path / "pixels", freeze)
    token_folder(tmp_path / "tokens", tmp_path / "pixels", root / "source")
    said = refused(config(root, tmp_path / "run", tmp_path / "tokens"))
    assert f"'tabletop' ({tmp_path / 'tokens'})" in said and f"dimensions {named} actuated" in said
    assert "absent: fixed" in said


def test_an_action_type_that_the_source_has_not_met(root, tmp_path):
    write_pixels(tmp_path / "pixels", lambda clip: replace(clip, info=replace(clip.info, action_type=ActionType.JOINT)))
    demos = replace(config(root, tmp_path).data, sources=(DataSource(folder=tmp_path / "pixels"),))
    adapting = WorldModelAdaptationConfig(
        run=tmp_path / "run", source=root / "source", demos=demos, tokenizer=None, loop=LoopConfig(steps=1),
        validation=ValidationConfig(batches=1, following_clips=0), optim=OptimConfig(warmup_steps=1),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"'tabletop' has joint actions; .*source was trained on eef_delta alone"):
        adapt_world_model(adapting)
    adapt_world_model(replace(adapting, run=tmp_path / "fresh", from_scratch=True))
    with pytest.raises(UserError, match=r"'tabletop' has joint actions .*source was trained on has eef_delta actions"):
        adapt_world_model(replace(adapting, run=tmp_path / "theirs", statistics="source"))


def test_more_neighbours_than_there_are_codes(root, tmp_path):
    wanted = config(root, tmp_path / "run")
    noise = replace(wanted.loss.noise, neighbors=32)
    assert "there are 31" in refused(replace(wanted, loss=replace(wanted.loss, noise=noise)))


@pytest.mark.parametrize("name", ["actions", "rewards"])
def test_a_number_that_is_not_finite_stops_before_the_update_and_names_the_clip(root, tmp_path, name):
    key = spoil(tmp_path / "tokens", root / "tokens", 5, name)
    said = refused(config(root, tmp_path / "run", tmp_path / "tokens"))
    assert "is not a finite number" in said and f"in {tmp_path / 'tokens'}" in said and f"clip {key} in" in said
    lines = read_metrics(tmp_path / "run/metrics.jsonl") if (tmp_path / "run/metrics.jsonl").exists() else []
    assert len([line for line in lines if "loss" in line]) < 2  # one of the first two batches has the clip


def test_a_run_that_does_not_follow_its_actions_is_saved_and_stopped(root, tmp_path):
    asked = config(root, tmp_path / "run")
    asked = replace(asked, validation=replace(asked.validation, min_action_following=50.0, min_following_from=3))
    for _ in range(2):  # the same command again goes on, and is stopped at the next validation
        with pytest.raises(UserError, match=r"action_following at step \d is .* dB .*asks for 50.0 dB"):
            train_dynamics(asked)
    with pytest.raises(UserError, match="action_following at step 6"):
        train_dynamics(asked)  # finished, and still not good enough to be exported
    assert sorted(path.name for path in (asked.run / "checkpoints").iterdir()) == ["step_0000004", "step_0000006"]
    assert not (asked.run / "export").exists()
    train_dynamics(replace(asked, validation=replace(asked.validation, min_action_following=None)))
    assert (asked.run / "export").is_dir()
    figures = [line for line in read_metrics(asked.run / "metrics.jsonl") if "val/action_following" in line][-1]
    assert {"val/action_following_se", "val/imagined_psnr", "val/dataset/tabletop/cross_entropy"} <= figures.keys()


@pytest.mark.parametrize("engine", [{"zero": 3}, {"recompute": True}])
def test_the_exact_derivative_is_refused_where_it_cannot_be_had(root, tmp_path, engine):
    wanted = config(root, tmp_path / "run")
    wanted = replace(wanted, engine=replace(wanted.engine, **engine))
    jacobian = replace(wanted.loss.jacobian, weight=1.0, estimator="vjp")
    assert "set loss.jacobian.estimator=finite_difference" in refused(
        replace(wanted, loss=replace(wanted.loss, jacobian=jacobian))
    )
