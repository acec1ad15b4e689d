"""A real LeRobot folder with all its traps, end to end: 50 episodes of a Franka arm plugging in a USB stick."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from whale.clips.clip import Clip
from whale.clips.reader import ClipReader
from whale.data_prep.oxe.kinematics import forward
from whale.data_prep.oxe.rotations import matrix_from_rotvec
from whale.data_prep.source import Episode, Source, open_source
from whale.data_prep.video import container_info

ROOT = Path(__file__).parents[2]
FRANKA = ROOT / "../shared/data/franka_usb_lerobot"
CONFIG = ROOT / "configs/data_prep/franka_usb_convert.yaml"


@pytest.fixture(scope="module")
def folder() -> Path:
    if not FRANKA.is_dir():
        pytest.skip("the Franka folder (../shared/data/franka_usb_lerobot) is not here")
    return FRANKA.resolve()


@pytest.fixture(scope="module")
def source(folder) -> Source:
    return open_source(str(folder))


@pytest.fixture(scope="module")
def converted(folder, whale, tmp_path_factory) -> list[Clip]:
    out = tmp_path_factory.mktemp("franka") / "clips"
    shipped = yaml.safe_load(CONFIG.read_text())
    ran = whale("convert", **{"source": folder, "out": out}, **{
        key: json.dumps(value) for key, value in shipped.items() if key not in ("source", "out")})
    assert ran.code == 0, ran.err
    readers = [ClipReader(out, split) for split in ("train", "val")]
    clips = [reader.read(i) for reader in readers for i in range(len(reader))]
    return sorted(clips, key=lambda clip: int(clip.info.episode))


def episodes_of(source: Source, camera: str = "images/right_cam") -> list[Episode]:
    found = [one for shard in source.shards for one in source.read(shard, [camera])]
    assert all(isinstance(one, Episode) for one in found)
    return found


def test_every_episode_and_every_step_is_read(source):
    episodes = episodes_of(source)
    assert (len(episodes), sum(len(one.steps["is_first"]) for one in episodes)) == (50, 17_275)
    assert [one.metadata["episode_index"] for one in episodes] == list(range(50))
    for one in episodes:
        assert one.steps["observation"]["state"].shape == (one.metadata["rows"], 8)
        assert one.steps["language_instruction"][-1] == "Pick up the USB drive and insert it into the port."


def test_what_the_spec_claims_is_in_the_data(source):
    for one in episodes_of(source, "images/wrist_cam"):
        state, action, time = one.steps["observation"]["state"], one.steps["action"], one.steps["timestamp"]
        np.testing.assert_array_equal(action[:-1], state[1:])  # reached, not commanded
        np.testing.assert_allclose(np.diff(time), 0.05, atol=1e-9)  # 20 Hz
        assert time[0] == pytest.approx(0.05)
        assert (one.metadata["video_fps"], one.metadata["stated_fps"]) == (20.0, 10)
        assert (one.metadata["video_codec"], one.metadata["stated_codec"]) == ("h264", "av1")
        assert one.metadata["video_frames"] == one.metadata["rows"] + 1
        assert set(np.unique(state[:, 7])) == {-1.0, 1.0}
        assert not one.steps["reward"].any()
        assert not one.steps["is_terminal"].any()


def test_frame_t_shows_state_t(source):
    """Motion in the picture goes best with that of the joints when frame t is paired with row t."""
    best = []
    for one in episodes_of(source)[::12]:
        video, state = one.steps["observation"]["images"]["right_cam"], one.steps["observation"]["state"][:, :7]
        frames = video.decode(range(len(video)), 128).astype(np.float32)
        seen, moved = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3)), np.abs(np.diff(state, axis=0)).sum(1)
        inner = np.arange(5, len(moved) - 5)
        best.append([np.corrcoef(seen[inner + shift], moved[inner])[0, 1] for shift in range(-4, 5)])
    assert np.argmax(np.mean(best, 0)) - 4 == 0


def test_all_of_it_is_converted_at_a_quarter_of_its_rate(converted, source):
    assert [int(clip.info.episode) for clip in converted] == list(range(50))
    rows = [one.metadata["rows"] for one in episodes_of(source)]
    assert [len(clip.frames) for clip in converted] == [-(-count // 4) for count in rows]
    assert {clip.info.control_period_sec for clip in converted} == {0.2}
    assert {clip.info.instruction for clip in converted} == {"Pick up the USB drive and insert it into the port."}
    assert all(clip.rewards is None and clip.info.success is None for clip in converted)


def test_the_frames_are_those_of_the_file(converted, source):
    for episode, clip in list(zip(episodes_of(source), converted, strict=True))[::10]:
        video = episode.steps["observation"]["images"]["right_cam"]
        assert len(container_info(video.path).times) == len(video) + 1
        np.testing.assert_array_equal(clip.frames, video.decode(range(0, len(video), 4), 64))


def test_actions_lead_from_pose_to_pose(converted):
    """Merged over four steps and added up over the episode, they end where the joints do."""
    for clip in converted:
        position, rotation = forward(np.asarray(clip.proprio)[:, :7], "panda", 0.1034)
        turns = matrix_from_rotvec(clip.actions[:-1, 3:6])
        reached = [rotation[0]]
        for turn in turns:
            reached.append(turn @ reached[-1])
        shifts = np.cumsum(clip.actions[:-1, :3].astype(np.float64), 0)
        np.testing.assert_allclose(position[0] + shifts, position[1:], atol=1e-4)
        np.testing.assert_allclose(reached, rotation, atol=1e-4)
        assert clip.action_known.tolist() == [True] * (len(turns)) + [False]


def test_the_gripper_closes_once_on_the_plug_and_opens_again(converted):
    for clip in converted:
        gripper = clip.actions[:-1, 6]
        assert set(np.unique(gripper)) == {0.0, 1.0}
        assert gripper[0] == gripper[-1] == 1.0
        changes = [(before, after) for before, after in pairwise(gripper) if before != after]
        assert changes[0] == (1.0, 0.0)


@pytest.mark.parametrize(("steps", "published_db"), [(1, 34.4), (4, 26.0), (8, 21.6), (16, 17.7)])
def test_copying_a_frame_is_as_good_as_published(converted, steps, published_db):
    """Mean over all pairs of frames. How the published figures were resized is not known: a smoother filter gives more
    (Pillow's bilinear one 0.6 to 1.8 dB more than by area)."""
    found = []
    for clip in converted:
        frames = clip.frames.astype(np.float64) / 255
        error = ((frames[steps:] - frames[:-steps]) ** 2).mean((1, 2, 3))
        found.extend(-10 * np.log10(np.maximum(error, 1e-10)))
    assert np.mean(found) == pytest.approx(published_db, abs=1.0)


def test_the_shipped_configuration_says_what_comes_out(converted):
    said = CONFIG.read_text().splitlines()[2]
    frames = sum(len(clip.frames) for clip in converted)
    assert f"{len(converted)} episodes" in said
    assert f"{frames:,} of them" in said
