"""What a spec may ask of an episode, on episodes made by hand."""

import dataclasses

import numpy as np
import pytest
from rlds_files import film

from whale.clips.clip import ActionType
from whale.data_prep.config import ConvertConfig
from whale.data_prep.episode import SkipEpisodeError, to_clips
from whale.data_prep.oxe.spec import ActionSpec, DatasetSpec, Frame, Motion, Part, PoseSpec, Rotation
from whale.data_prep.source import Episode, InputShard

SHARD = InputShard(3, "/somewhere/made-train.tfrecord-00003", "train", 100, 9, 1)
T = 8
IMAGES = film(np.random.default_rng(0), T, 32, "PNG")


def spec(**others) -> DatasetSpec:
    action = ActionSpec(frame=Frame.BASE, position=Part(key="action/move", size=3), gripper=Part(key="action/hand"))
    facts = {"name": "made", "cameras": {"image": "wrist"}, "control_period_sec": 0.1, "action": action}
    return DatasetSpec(**facts | {"instruction": None} | others)


def config(**others) -> ConvertConfig:
    return ConvertConfig(**{"source": "x", "out": "y", "camera": "image", "size_px": 32} | others)


def episode(metadata=None, **others) -> Episode:
    steps = np.arange(T)
    action = {"move": np.outer(steps, [0.01, 0, 0.02]).astype(np.float32), "hand": np.ones((T, 1), np.float32)}
    flags = {"is_first": steps == 0, "is_last": steps == T - 1, "is_terminal": steps == T - 1}
    return Episode(7, {"observation": {"image": IMAGES}, "action": action} | flags | others, metadata or {})


def clips(spec, made=None, **others):
    return list(to_clips(made or episode(), spec, config(**others), "train", SHARD))


def test_without_keys_an_episode_is_called_as_tfds_numbers_it():
    clip, = clips(spec())
    assert clip.info.episode == "train[107]" and clip.info.source.record == 7 and clip.info.view == "wrist"
    clip, = clips(spec(episode_keys=("file", "n")), episode({"file": b"a/b", "n": np.int64(4)}))
    assert clip.info.episode == "a/b#4"


def test_leading_steps_are_dropped_with_their_frames_and_the_first_is_marked():
    whole, = clips(spec())
    clip, = clips(spec(drop_first=3))
    assert np.array_equal(clip.frames, whole.frames[3:]) and np.array_equal(clip.actions, whole.actions[3:])
    assert clip.is_first.tolist() == [True] + [False] * (T - 4) and clip.action_known.sum() == T - 4


def test_swapped_channels_are_swapped_back():
    assert np.array_equal(clips(spec(bgr=("image",)))[0].frames, clips(spec())[0].frames[..., ::-1])


def test_instructions_are_text_or_code_points_or_absent():
    text = np.array([b" push it "] * T, object)
    points = np.tile(np.array([*map(ord, "schön"), 0, 0], np.int32), (T, 1))
    for path, steps in (("say", {"say": text}), ("observation/say", {"observation": {"image": IMAGES, "say": points}})):
        clip, = clips(spec(instruction=path), episode(**steps))
        assert clip.info.instruction in ("push it", "schön")
    assert clips(spec(instruction="say"))[0].info.instruction is None


@pytest.mark.parametrize(("where", "label"), [("metadata", True), ("metadata", False), ("step", True), ("step", False)])
def test_the_success_label_is_in_the_metadata_or_the_last_step(where, label):
    made = episode({"ok": np.bool_(label)}) if where == "metadata" else episode(ok=np.arange(T) == (T - 1) * label)
    if where == "step" and not label:
        made.steps["ok"][:] = False
    assert clips(spec(success="ok"), made)[0].info.success is label
    if not label:
        with pytest.raises(SkipEpisodeError, match="no success"):
            clips(spec(success="ok", only_successes=True), made)


def test_a_rate_asked_for_is_what_the_clip_says_and_windows_are_cut_after():
    made = clips(spec(has_rewards=True), episode(reward=np.ones(T, np.float32)), control_period_sec=0.2, clip_frames=3)
    assert [clip.info.start for clip in made] == [0] and made[0].num_frames == 3  # the fourth frame is alone
    assert made[0].info.control_period_sec == 0.2 and made[0].rewards.tolist() == [2, 2, 2]
    assert np.allclose(made[0].actions[:, 0], [0.01, 0.05, 0.09])
    assert np.array_equal(made[0].frames, clips(spec())[0].frames[[0, 2, 4]])


@pytest.mark.parametrize("kind", ["end effector", "joints"])
def test_the_lag_behind_a_target_counts_once_whatever_the_rate(kind):
    """An arm that moves by 1 cm (or 0.01 rad) a step, and is always 3 cm behind where it is told to be."""
    state = np.outer(np.arange(T), np.ones(6)) * 0.01
    facts = {"action": ActionSpec(motion=Motion.TARGET, joints=Part(key="target")), "action_type": ActionType.JOINT,
             "pose": PoseSpec(joints=Part(key="state"))}
    if kind == "end effector":
        facts = {"action": ActionSpec(motion=Motion.TARGET, position=Part(key="target", size=3),
                                      rotation=Part(key="target", first=3), rotation_form=Rotation.ROTVEC),
                 "pose": PoseSpec(position=Part(key="state", size=3), rotation=Part(key="state", first=3),
                                  rotation_form=Rotation.ROTVEC)}  # fmt: skip
    made = episode(state=state, target=state + 0.03)
    for k, drop_first in ((1, 0), (2, 0), (3, 0), (4, 1), (3, 2)):
        clip, = clips(spec(drop_first=drop_first, **facts), made, control_period_sec=0.1 * k)
        assert np.allclose(clip.actions[clip.action_known, :6], 0.03 + 0.01 * (k - 1), atol=1e-6)


BAD_IMAGES = [*IMAGES[:5], b"no image", *IMAGES[6:]]


@pytest.mark.parametrize(("made", "others", "reason"), [
    (episode(observation={"image": IMAGES[:-1]}), {}, "frames and steps differ: 7 frames, 8 steps"),
    (episode(observation={"image": BAD_IMAGES}), {}, "undecodable: the image of step 5"),
    (episode(action={"move": np.zeros((T, 3))}), {}, "missing feature action/hand"),
    (episode(action={"move": np.zeros((T, 2)), "hand": np.zeros(T)}), {}, "malformed feature: action/move has 2"),
    (episode(action={"move": np.full((T, 3), np.nan), "hand": np.zeros(T)}), {}, "values that are not finite"),
    (episode(action={"move": np.zeros((T + 1, 3)), "hand": np.ones(T)}), {}, "malformed feature"),
    (episode(), {"min_frames": T + 1}, "shorter than 9 frames"),
    (episode(), {"control_period_sec": 0.9}, "shorter than 2 frames"),
    (episode(is_first=np.ones(1, bool)), {}, "shorter than two steps"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_what_cannot_be_used_is_left_out_with_its_reason(made, others, reason):
    with pytest.raises(SkipEpisodeError, match=reason):
        clips(spec(), made, **others)


def test_a_source_that_the_metadata_do_not_name():
    with pytest.raises(SkipEpisodeError, match="missing feature file_path of the metadata"):
        clips(dataclasses.replace(spec(), episode_keys=("file_path",)))
