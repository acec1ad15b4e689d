"""Batches with merged actions, against the recorded clips: every window is recognised by its frames."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from whale.actions import ActionStatus, accumulate, as_vectors
from whale.clips.clip import ActionType
from whale.clips.loader import ClipLoader, DataConfig, DataSource
from whale.clips.merging import MergeConfig, Merging
from whale.clips.mixture import Mixture
from whale.clips.reader import ClipReader
from whale.errors import UserError

FRAMES = 6
FREE = (ActionStatus.ACTUATED,) * 7
PARTLY_FIXED = (2, 2, 2, 1, 1, 2, 2)


def config_of(*folders, share=1.0, most=1, batch=16, workers=0, **changes):
    sources = tuple(DataSource(folder=folder) for folder in folders)
    merge = MergeConfig(share=share, most=most)
    return DataConfig(sources=sources, frames=FRAMES, batch=batch, workers=workers, merge=merge, **changes)


def take(config, count, start=0, ranks=1, split="train"):
    loaders = [ClipLoader(config, split, rank, ranks) for rank in range(ranks)]
    batches = zip(*(itertools.islice(loader.batches(start), count) for loader in loaders), strict=True)
    return [{name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in batches]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        assert all(torch.equal(x[name], y[name]) for name in x)


@pytest.fixture(scope="module")
def make(tmp_path_factory, make_clip, make_folder):
    """Folders of clips that are one frame long, shorter than a window, shorter than a merged one, and longer."""

    def folder(kind="tokens", dataset="toy", **info):
        clips = []
        for seed, steps in enumerate([1, 3, 5, 7, 9, 12, 17, 30, 40] * 2):
            clip = make_clip(seed, steps, kind, split="val" if seed == 17 else "train")
            rng = np.random.default_rng(seed)
            changed = {"is_terminal": clip.is_last, "action_known": clip.action_known & (rng.random(steps) < 0.9)}
            info = {"action_status": FREE} | info
            changed["actions"] = clip.actions * np.float32(0.3)  # three of them turn by less than half a turn
            clips.append(replace(clip, info=replace(clip.info, dataset=dataset, **info), **changed))
        return make_folder(tmp_path_factory.mktemp("merging") / "clips", [clips])

    return folder


@pytest.fixture(scope="module")
def folder(make):
    return make()


def windows(config):
    """Of each window: the clip it is of, the steps that are kept, and its row of the batch as NumPy arrays."""
    loader = ClipLoader(config, "train")
    reader = ClipReader(config.sources[0].folder, "train")
    for batch in itertools.islice(loader.batches(), 8):
        frames = (batch["tokens"] if "tokens" in batch else batch["frames"]).numpy()
        drawn = loader._batches.mixture.at(batch["position"].numpy())[1]
        for row, k in enumerate(drawn):
            clip = reader.read(int(k))
            steps = {frame.astype(frames.dtype).tobytes(): t
                     for t, frame in enumerate(clip.tokens if clip.frames is None else clip.frames)}  # fmt: skip
            valid = batch["valid"][row].numpy()
            assert not frames[row][~valid].any()
            kept = np.array([steps[frame.tobytes()] for frame in frames[row][valid]])
            yield clip, kept, {name: value[row].numpy() for name, value in batch.items()}


@pytest.mark.parametrize(("axes", "status", "kind", "most"), [
    ("base", FREE, "tokens", 1), ("tool", FREE, "pixels", 2), ("base", PARTLY_FIXED, "tokens", 3),
    ("tool", PARTLY_FIXED, "tokens", 2),
])  # fmt: skip
def test_merged_actions_lead_to_the_recorded_poses_at_the_kept_frames(make, axes, status, kind, most):
    folder = make(kind, action_frame=axes, action_status=tuple(ActionStatus(s) for s in status))
    config = config_of(folder, most=most)
    scale, free = ClipLoader(config, "train").scales["toy"], np.array(status) == ActionStatus.ACTUATED
    low, high = np.array(scale.low), np.array(scale.high)
    gaps_seen, full, whole = set(), 0, 0
    for clip, kept, row in windows(config):
        gaps, count = np.diff(kept), len(kept)
        gaps_seen |= set(gaps.tolist())
        full += count == FRAMES
        assert count == FRAMES or kept[-1] == clip.num_frames - 1  # masked only where the clip ends
        assert count == FRAMES or clip.num_frames <= (FRAMES - 1) * (most + 1)
        assert row["merged"].tolist() == [*(gaps > 1), *[False] * (FRAMES - len(gaps))]
        ends = np.append(kept[1:], kept[-1] + 1)
        known = np.array([clip.action_known[i:j].all() for i, j in zip(kept, ends, strict=True)])
        assert (row["action_mask"][:count] == known[:, None] & free).all() and not row["action_mask"][count:].any()
        told = np.where(row["action_mask"], row["actions"] * (high - low) / 2 + (high + low) / 2, 0)
        recorded = np.where(free, clip.actions, 0)
        for t, (i, j) in enumerate(zip(kept, ends, strict=True)):
            places, turns = accumulate(recorded[i:j], axes)
            motion = np.where(free, np.append(as_vectors((places[-1], turns[-1])), recorded[j - 1, 6]), 0)
            np.testing.assert_allclose(told[t], motion * known[t], atol=1e-4)
        if known[:-1].all() and free.all():
            ours, theirs = accumulate(told[: len(gaps)], axes), accumulate(clip.actions[kept[0] : kept[-1]], axes)
            for mine, other in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(mine, other[kept - kept[0]], atol=1e-3)
            whole += len(gaps) > 1
    assert gaps_seen == set(range(1, most + 2)) and full > 40 and (whole > 10 or not free.all())


def test_flags_and_rewards_follow_the_kept_frames(folder):
    terminated = 0
    for clip, kept, row in windows(config_of(folder, most=2)):
        count = len(kept)
        assert row["terminated_mask"].tolist() == [True] * (count - 1) + [False] * (FRAMES - count + 1)
        assert row["terminated"].tolist() == [*clip.is_terminal[kept[1:]], *[False] * (FRAMES - count + 1)]
        terminated += row["terminated"].sum()
        single = clip.action_known[kept] & ~clip.is_last[kept] & ~row["merged"][:count]
        found = row["reward_mask"] & ~row["merged"]
        assert found[:count].tolist() == single.tolist() and not found[count:].any()
        assert (row["rewards"][:count][single] == clip.rewards[kept][single]).all()
    assert terminated > 10


def test_the_share_is_of_the_clips_and_half_of_their_steps_are_merged():
    merging, positions = Merging(MergeConfig(share=0.3, most=2), Mixture([18], [1.0], 0)), np.arange(200_000)
    chosen = merging.chosen(positions)
    parts = np.diff(merging.kept_steps(positions, 4), axis=1)
    assert abs(chosen.mean() - 0.3) < 0.005
    for count, share in ((1, 0.5), (2, 0.25), (3, 0.25)):
        assert np.abs((parts == count).mean(0) - share).max() < 0.005
    together = np.corrcoef(np.stack([chosen, *parts.T])) - np.eye(4)  # clips and places are drawn independently
    assert np.abs(together).max() < 0.01
    assert not Merging(MergeConfig(), merging.mixture).chosen(positions).any()
    assert Merging(MergeConfig(share=1.0), merging.mixture).chosen(positions).all()


def test_clips_that_are_not_chosen_stay_as_they_are(folder):
    config = config_of(folder, share=0.3, batch=1000)
    loader, batch = ClipLoader(config, "train"), take(config, 1)[0]
    plain = take(replace(config, merge=MergeConfig()), 1)[0]
    chosen = torch.from_numpy(loader._batches._merging.chosen(batch["position"].numpy()))
    assert all(torch.equal(batch[name][~chosen], plain[name][~chosen]) for name in batch)
    assert batch["merged"][chosen].any() and not batch["merged"][~chosen].any()


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (4, 0), (1, 2), (2, 1)])
def test_the_batches_are_the_same_for_any_ranks_and_workers(folder, ranks, workers):
    config = config_of(folder, share=0.5, batch=4, most=2)
    assert_same(take(config, 6), take(replace(config, workers=workers), 6, ranks=ranks))


def test_resuming_goes_on_as_if_never_stopped(folder):
    config = config_of(folder, share=0.5, batch=4)
    loader = ClipLoader(config, "train")
    start = loader.resume_position(loader.state(7 * 4))
    assert_same(take(config, 3, start=start, ranks=2), take(config, 10)[7:])
    other = take(replace(config, seed=1), 10)
    assert any(a["merged"].ne(b["merged"]).any() for a, b in zip(take(config, 10), other, strict=True))


def test_held_out_clips_stay_as_they_are(folder):
    merged, plain = config_of(folder), config_of(folder, share=0.0)
    assert_same(take(merged, 3, split="val"), take(plain, 3, split="val"))


def test_however_many_frames_are_dropped_no_clip_is_read_beyond_its_end(folder):
    config = config_of(folder, most=10**9)
    for clip, kept, row in windows(config):
        assert kept[-1] < clip.num_frames and (len(kept) == FRAMES or kept[-1] == clip.num_frames - 1)
        assert row["valid"].sum() == len(kept)


UNDEFINED = [
    {"action_type": ActionType.JOINT}, {"action_type": ActionType.EEF_ABSOLUTE}, {"action_type": ActionType.PLANAR},
    {"action_status": (ActionStatus.UNKNOWN, *FREE[1:])},
]  # fmt: skip


@pytest.mark.parametrize("info", UNDEFINED)
def test_where_it_is_not_defined_nothing_is_merged(make, folder, info):
    other = make(dataset="other", **info)
    with pytest.raises(UserError, match=r"merge\.share asks for merged actions, and no source"):
        ClipLoader(config_of(other), "train")
    config = config_of(folder, other, batch=64)
    assert ClipLoader(config, "train").merged_datasets == ["toy"]
    batch, plain = take(config, 1)[0], take(replace(config, merge=MergeConfig()), 1)[0]
    rows = batch["embodiment"] == 0
    assert all(torch.equal(batch[name][rows], plain[name][rows]) for name in batch)
    assert batch["merged"][~rows].any()


@pytest.mark.parametrize("wrong", [{"share": -0.1}, {"share": 1.5}, {"share": float("nan")}, {"most": 0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MergeConfig(**wrong)
