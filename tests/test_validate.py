"""Clips to imagine with another clip's actions: shared out over ranks, partners of the same dataset."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from tiny_clips import tabletop_clip, token_folder, write_folder
from tiny_model import randomise, tiny_config

from whale.clips.loader import ClipLoader, DataConfig, DataSource
from whale.clips.manifest import read_manifest
from whale.clips.stats import write_stats
from whale.config import build_config, to_values
from whale.errors import UserError
from whale.export import save_export
from whale.models.dataset_card import DatasetCard, dataset_card
from whale.models.world_model import WorldModel
from whale.objectives.validation import ValidationConfig
from whale.ranks import Ranks
from whale.validate import following_batch, read_held_out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("validate")
    model = WorldModel(tiny_config())
    randomise(model)
    save_export(root / "export", "world_model", model, model.config, {})
    clips = [tabletop_clip(seed, 9 if seed % 2 else 5, 16, "train" if seed < 2 else "val") for seed in range(6)]
    return token_folder(root / "tokens", write_folder(root / "pixels", clips), root / "export")


def test_each_clip_has_a_partner_with_other_actions(folder):
    data = DataConfig(sources=(DataSource(folder=folder),), frames=6, batch=2)
    scales = ClipLoader(data, "train").scales
    whole = following_batch(data, scales, 4, 8, Ranks())
    for i in range(4):
        partners = [j for j in range(4) if whole["actions"][j].equal(whole["other_actions"][i])]
        assert partners and i not in partners
        both = whole["valid"][i] & whole["valid"][partners[0]]
        assert torch.equal(whole["scored"][i], both) and both.sum() >= 5
    halves = [following_batch(data, scales, 3, 8, Ranks(rank, 2)) for rank in range(2)]  # as many as fill both ranks
    assert all(torch.equal(torch.cat([half[name] for half in halves]), whole[name]) for name in whole)
    assert following_batch(data, scales, 0, 8, Ranks()) is None


def test_clips_without_a_partner_are_not_scored(tmp_path, folder):
    write_folder(tmp_path / "pixels", [tabletop_clip(3, 9, 16, split) for split in ("train", "val", "val")])
    data = DataConfig(sources=(DataSource(folder=tmp_path / "pixels"),), frames=6, batch=2)
    batch = following_batch(data, ClipLoader(data, "train").scales, 2, 8, Ranks())
    assert not batch["scored"].any() and batch["valid"].any()


def test_following_that_is_asked_and_cannot_be_measured_is_told_at_once(tmp_path, folder):
    """One held-out clip, or several that are no longer than the context."""
    model, asked = WorldModel(tiny_config()), ValidationConfig(batches=1, following_clips=4, min_action_following=0.1)
    for name, lengths in (("one", [9]), ("short", [3, 3, 3])):
        clips = [tabletop_clip(k, length, 16, "val") for k, length in enumerate(lengths)]
        pixels = write_folder(tmp_path / name, [tabletop_clip(0, 9, 16, "train"), *clips])
        data = DataConfig(sources=(DataSource(folder=pixels),), frames=6, batch=2, workers=0)
        with pytest.raises(UserError, match="more than 3 frames"):
            read_held_out(data, model, asked, Ranks(), None)
        _, following = read_held_out(data, model, replace(asked, min_action_following=None), Ranks(), None)
        assert not following["scored"][:, 3:].any()
    data = replace(data, sources=(DataSource(folder=folder),))
    assert read_held_out(data, model, asked, Ranks(), None)[1]["scored"][:, 3:].any()


def test_a_card_says_robot_and_licence_where_the_folder_does(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "told")
    write_stats(tmp_path / "told", read_manifest(folder), "Franka Panda", "CC-BY-4.0")
    _, told = dataset_card(tmp_path / "told")
    assert (told.robot, told.licence) == ("Franka Panda", "CC-BY-4.0")
    assert (dataset_card(folder)[1].robot, dataset_card(folder)[1].licence) == ("", "")
    assert json.loads((tmp_path / "told/stats.json").read_text())["robot"] == "Franka Panda"


@pytest.mark.parametrize("frame", ["base", "tool"])
def test_a_card_says_the_axes_of_its_actions(tmp_path, frame):
    clip = tabletop_clip(0, 9, 16, "train")
    told = write_folder(tmp_path / "told", [replace(clip, info=replace(clip.info, action_frame=frame))])
    assert dataset_card(told)[1].action_frame == frame


def test_a_card_of_before_does_not_say_its_frame(folder):
    values = to_values(dataset_card(folder)[1])
    del values["action_frame"]
    assert build_config(DatasetCard, values, "config.json").action_frame == ""
