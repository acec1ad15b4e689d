from dataclasses import replace

import numpy as np
import pytest
from tiny_clips import tabletop_clip, write_folder

from whale.errors import UserError
from whale.starts import RecordedStarts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Episodes of 6 frames with the first unknown action at 5 (the last one), at 3, nowhere, and at 0; then a later
    part of one, and one of 2 frames."""
    clips = []
    for seed, unknown in enumerate([5, 3, 6, 0]):
        clip = tabletop_clip(seed, 6, 16, "val")
        clips.append(replace(clip, action_known=np.arange(6) != unknown))
    clips.append(replace(clips[2], info=replace(clips[2].info, episode="later", start=6)))
    others = [tabletop_clip(9, 2, 16, "val"), tabletop_clip(10, 6, 16, "train")]
    return write_folder(tmp_path_factory.mktemp("starts") / "clips", [*clips, *others])


def test_an_episode_reaches_to_its_first_unknown_action(folder):
    starts = RecordedStarts(folder, "val", 1)
    found = {start.info.episode: start.known_frames for start in starts.episodes.values()}
    assert list(found) == starts.names and found == {
        "seed 0": 6, "seed 1": 4, "seed 2": 6, "seed 3": 1, "seed 9": 2
    }  # fmt: skip
    assert all(starts.read(name).info.episode == name for name in starts.names)


@pytest.mark.parametrize("num_frames", [2, 4, 5, 6])
def test_those_long_enough_are_found_in_order_and_no_more_than_are_asked_for(folder, num_frames):
    every = RecordedStarts(folder, "val", 1).episodes
    long = [name for name, start in every.items() if start.known_frames >= num_frames]
    assert RecordedStarts(folder, "val", num_frames).names == long
    assert RecordedStarts(folder, "val", num_frames, most=2).names == long[:2]


def test_none_long_enough_is_told(folder):
    with pytest.raises(UserError, match=r"no episode that begins with 7 frames.*longest clip has 6"):
        RecordedStarts(folder, "val", 7)
