"""Batches against the same windows made of one clip after another, by the definition."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from whale.actions import ActionStatus
from whale.clips.clip import ActionType
from whale.clips.loader import ClipLoader, DataConfig, DataSource
from whale.clips.reader import ClipReader


def fit(array, start, length):
    part = array[start : start + length]
    return np.concatenate([part, np.zeros((length - len(part), *part.shape[1:]), part.dtype)])


def window_of(clip, start, length, scale):
    steps, status = clip.num_frames, np.array(clip.info.action_status, np.int64)
    valid, known = fit(np.ones(steps, bool), start, length), fit(clip.action_known, start, length)
    mask = known[:, None] & (status == ActionStatus.ACTUATED)
    has_next = np.append(valid[1:], False)
    rewards = np.zeros(steps, np.float32) if clip.rewards is None else clip.rewards
    frames = {"frames": clip.frames} if clip.tokens is None else {"tokens": clip.tokens.astype(np.int64)}
    return {
        "actions": np.where(mask, scale.scale(fit(clip.actions, start, length)), np.float32(0)), "action_mask": mask,
        "action_status": status, "action_type": np.int64(list(ActionType).index(clip.info.action_type)),
        "rewards": fit(rewards, start, length),
        "reward_mask": valid & known & ~fit(clip.is_last, start, length) & (clip.rewards is not None),
        "terminated": np.append(fit(clip.is_terminal, start, length)[1:], False) & has_next,
        "terminated_mask": has_next, "valid": valid, "merged": np.zeros(length, bool),
        "control_period_sec": np.float32(clip.info.control_period_sec),
        **{name: fit(value, start, length) for name, value in frames.items()},
    }


def any_clip(make_clip, seed, kind, dataset):
    rng = np.random.default_rng([seed, 9])
    steps = int(rng.integers(1, 12))
    flags = {name: rng.random(steps) < 0.4 for name in ("action_known", "is_first", "is_last", "is_terminal")}
    absent = {name: None for name in ("rewards", "proprio") if rng.random() < 0.4}
    clip = make_clip(seed, steps, kind, **flags, **absent)
    info = replace(
        clip.info, dataset=dataset, action_type=list(ActionType)[rng.integers(4)], control_period_sec=rng.random(),
        action_status=tuple(ActionStatus(int(i)) for i in rng.integers(0, 3, 7)),
        instruction="x" * int(rng.integers(0, 2000)),
    )
    return replace(clip, info=info)


@pytest.mark.parametrize("frames", [1, 4, 15])
@pytest.mark.parametrize("kind", ["pixels", "tokens"])
def test_a_batch_is_its_clips_windows_one_by_one(tmp_path, make_clip, make_folder, kind, frames):
    names = ("ant", "bee")
    folders = []
    for i, name in enumerate(names):
        clips = [any_clip(make_clip, 100 * i + seed, kind, name) for seed in range(40)]
        folders.append(make_folder(tmp_path / name, [clips], max_clips=7))
    sources = tuple(DataSource(folder=folder, weight=w) for folder, w in zip(folders, (1.0, 2.5), strict=True))
    loader = ClipLoader(DataConfig(sources=sources, frames=frames, batch=50, workers=0, seed=frames), "train")
    readers = [ClipReader(folder, "train") for folder in folders]
    for batch in itertools.islice(loader.batches(137), 3):
        drawn = zip(*loader._batches.mixture.at(batch["position"].numpy()), strict=True)
        for row, (source, k) in enumerate(drawn):
            clip = readers[source].read(int(k))
            choices = np.array([max(1, clip.num_frames - frames + 1)])
            start = int(loader._batches.mixture.offset(batch["position"].numpy()[row : row + 1], choices)[0])
            expected = window_of(clip, start, frames, loader.scales[names[source]])
            expected |= {"embodiment": np.int64(source), "position": np.int64(batch["position"][row])}
            assert expected.keys() == batch.keys()
            for name, value in expected.items():
                found = batch[name][row].numpy()
                assert found.dtype == value.dtype and np.array_equal(found, value), name
