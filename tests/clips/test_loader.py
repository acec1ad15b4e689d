import itertools
import multiprocessing
import pickle
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from whale.actions import ActionStatus
from whale.clips.loader import ClipLoader, DataConfig, DataSource
from whale.clips.reader import ClipReader
from whale.clips.stats import read_scale
from whale.config import configclass, load_config
from whale.errors import UserError


def config_of(*folders, frames=5, batch=4, workers=0, **changes):
    sources = tuple(DataSource(folder=folder) for folder in folders)
    return DataConfig(sources=sources, frames=frames, batch=batch, workers=workers, **changes)


def take(config, count, start=0, ranks=1, joined=True):
    """`count` global batches, put together from all ranks."""
    if not joined:
        return list(itertools.islice(ClipLoader(config, "train").batches(start), count))
    per_rank = [
        list(itertools.islice(ClipLoader(config, "train", rank, ranks).batches(start), count)) for rank in range(ranks)
    ]
    batches = zip(*per_rank, strict=True)
    return [{name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in batches]


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        assert all(torch.equal(x[name], y[name]) for name in x)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 0), (4, 0), (1, 1), (1, 2), (2, 2)])
def test_the_global_order_is_the_same_for_any_ranks_and_workers(toy_folder, ranks, workers):
    assert_same(take(config_of(toy_folder), 6), take(config_of(toy_folder, workers=workers), 6, ranks=ranks))


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (23, 0), (1, 2)])
def test_an_epoch_has_every_clip_once(toy_folder, ranks, workers):
    reader = ClipReader(toy_folder, "train")
    epoch = take(config_of(toy_folder, batch=23, frames=4, workers=workers), 1, ranks=ranks)[0]
    heads = {reader.read(k).frames[0].tobytes(): k for k in range(23) if reader.num_frames[k] == 4}
    whole = [heads[f[0].numpy().tobytes()] for f in epoch["frames"] if f[0].numpy().tobytes() in heads]
    assert sorted(whole) == sorted(heads.values())
    loader = ClipLoader(config_of(toy_folder), "train")
    assert sorted(loader._batches.mixture.at(np.arange(23))[1]) == list(range(23))
    assert loader.epoch_length == 23


def test_resuming_goes_on_as_if_never_stopped(toy_folder):
    config = config_of(toy_folder, seed=4)
    loader = ClipLoader(config, "train")
    state = loader.state(7 * config.batch)
    assert (state.epoch, state.position) == divmod(28, 23)
    start = ClipLoader(config, "train", 1, 2).resume_position(state)
    assert_same(take(config, 3, start=start, ranks=2), take(config, 10)[7:])


def test_batches_take_nothing_from_the_process_own_random_numbers(toy_folder):
    before = torch.get_rng_state()
    for workers in (0, 2):
        take(config_of(toy_folder, workers=workers), 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_batch_after_a_resume_needs_no_worker(toy_folder):
    batches = ClipLoader(config_of(toy_folder, workers=2), "train").batches(10**9)
    next(batches)
    assert not multiprocessing.active_children()
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_is_pinned(toy_folder, tmp_path, make_clip, make_folder, workers):
    tokens = make_folder(tmp_path / "tokens", [[make_clip(seed, kind="tokens") for seed in range(5)]])
    for folder in (toy_folder, tokens):
        for batch in take(config_of(folder, workers=workers), 6, joined=False):
            assert all(value.is_pinned() for value in batch.values())


def test_clips_of_another_size_are_named(tmp_path, make_clip, make_folder):
    folder = make_folder(tmp_path / "f", [[make_clip(0), make_clip(1, size=4)]])
    with pytest.raises(UserError, match=r"clip 00000000001 of .* has frames \(4, 4, 3\), others \(8, 8, 3\)"):
        next(ClipLoader(config_of(folder, batch=2), "train").batches())


def test_resuming_refuses_other_data_and_another_seed(toy_folder):
    state = ClipLoader(config_of(toy_folder), "train").state(0)
    with pytest.raises(UserError, match="other data"):
        ClipLoader(config_of(toy_folder), "val").resume_position(state)
    with pytest.raises(UserError, match="seed"):
        ClipLoader(config_of(toy_folder, seed=1), "train").resume_position(state)


def test_windows_are_runs_of_their_clip_and_line_up(toy_folder):
    reader = ClipReader(toy_folder, "train")
    scale = read_scale(toy_folder)[1]
    loader = ClipLoader(config_of(toy_folder, batch=23, frames=6), "train")
    batch = next(loader.batches())
    starts, drawn = set(), loader._batches.mixture.at(np.arange(23))[1]
    for row in range(23):
        clip = reader.read(int(drawn[row]))
        steps = clip.num_frames
        valid = batch["valid"][row].numpy()
        length = min(6, steps)
        assert valid.tolist() == [True] * length + [False] * (6 - length)
        frames = batch["frames"][row].numpy()
        start = next(s for s in range(steps) if np.array_equal(clip.frames[s], frames[0]))
        starts.add((steps, start))
        here = slice(start, start + length)
        assert np.array_equal(frames[:length], clip.frames[here])
        known = clip.action_known[here]
        assert torch.equal(batch["reward_mask"][row, :length], torch.from_numpy(known))
        assert np.array_equal(batch["rewards"][row, :length].numpy(), clip.rewards[here])
        actions = batch["actions"][row, :length].numpy()
        assert np.array_equal(actions[known][:, [0, 1, 2, 6]], scale.scale(clip.actions[here])[known][:, [0, 1, 2, 6]])
        assert not actions[~known].any() and not actions[:, 3:6].any() and not batch["actions"][row, length:].any()
        assert batch["action_mask"][row].any(-1).sum() == known.sum()
    assert {(8, 0), (8, 1), (8, 2)} & starts and len({s for steps, s in starts if steps == 8}) > 1
    assert loader.datasets == ["toy"] and set(batch["embodiment"].tolist()) == {0}


def test_termination_is_told_of_the_frame_after_the_action(tmp_path, make_clip, make_folder):
    terminal = np.array([False, False, False, True])
    folder = make_folder(tmp_path / "t", [[make_clip(0, steps=4, is_terminal=terminal)]])
    batch = next(ClipLoader(config_of(folder, batch=1, frames=6), "train").batches())
    assert batch["terminated"][0].tolist() == [False, False, True, False, False, False]
    assert batch["terminated_mask"][0].tolist() == [True, True, True, False, False, False]
    assert batch["reward_mask"][0].tolist() == [True, True, True, False, False, False]


def test_unknown_rewards_and_dimensions_are_masked(tmp_path, make_clip, make_folder):
    clip = make_clip(0, steps=4, rewards=None, kind="tokens")
    status = (ActionStatus.UNKNOWN,) + (ActionStatus.ACTUATED,) * 6
    clip = replace(clip, info=replace(clip.info, action_status=status))
    batch = next(ClipLoader(config_of(make_folder(tmp_path / "t", [[clip]]), batch=1, frames=4), "train").batches())
    assert not batch["reward_mask"].any()
    assert not batch["action_mask"][..., 0].any() and batch["action_mask"][0, :3, 1:].all()
    assert batch["action_status"].tolist() == [[0, 2, 2, 2, 2, 2, 2]]
    assert batch["tokens"].dtype == torch.int64 and np.array_equal(batch["tokens"][0].numpy(), clip.tokens)


def test_two_sources_number_their_datasets_by_name(tmp_path, make_clip, make_folder):
    def of(name, seed):
        clip = make_clip(seed)
        return make_folder(tmp_path / name, [[replace(clip, info=replace(clip.info, dataset=name))]])

    sources = (DataSource(folder=of("zebra", 1), weight=3.0), DataSource(folder=of("ant", 2), weight=1.0))
    config = DataConfig(sources=sources, frames=6, batch=1024, workers=0)
    loader = ClipLoader(config, "train")
    batch = next(loader.batches())
    assert loader.datasets == ["ant", "zebra"]
    assert batch["embodiment"].bincount().tolist() == [256, 768]
    given = ClipLoader(config, "train", scales={"zebra": loader.scales["zebra"], "ant": loader.scales["ant"]})
    assert next(given.batches())["embodiment"].bincount().tolist() == [768, 256]
    with pytest.raises(UserError, match="'zebra'"):
        ClipLoader(config, "train", scales={"ant": loader.scales["ant"]})


def test_a_limit_takes_the_first_clips(toy_folder):
    source = DataSource(folder=toy_folder, clips=3)
    loader = ClipLoader(DataConfig(sources=(source,), frames=4, batch=3, workers=0), "train")
    assert sorted(loader._batches.mixture.at(np.arange(3))[1]) == [0, 1, 2]
    with pytest.raises(UserError, match="24 are asked for"):
        ClipLoader(DataConfig(sources=(DataSource(folder=toy_folder, clips=24),), frames=4, batch=3), "train")


def test_wrong_combinations_are_refused(toy_folder, tmp_path, make_clip, make_folder):
    with pytest.raises(UserError, match="does not divide by 3 ranks"):
        ClipLoader(config_of(toy_folder), "train", 0, 3)
    tokens = make_folder(tmp_path / "tokens", [[make_clip(0, kind="tokens")]])
    with pytest.raises(UserError, match="tokenizer"):
        ClipLoader(config_of(toy_folder, tokens), "train")
    clip = make_clip(1, kind="tokens")
    others = make_folder(tmp_path / "others", [[replace(clip, info=replace(clip.info, tokenizer="xyz"))]])
    with pytest.raises(UserError, match=r"frames of tokenizer xyz, .* of abc"):
        ClipLoader(config_of(tokens, others), "train")
    other = make_folder(tmp_path / "other", [[make_clip(77)]])
    with pytest.raises(UserError, match="different action statistics"):
        ClipLoader(config_of(toy_folder, other), "train")


def test_an_error_for_the_user_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(UserError("this is wrong", "do that")))
    assert isinstance(error, UserError) and str(error) == "this is wrong\n  remedy: do that"


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_clip_damaged_on_disk_is_an_error_for_the_user(toy_folder, tmp_path, workers):
    folder = shutil.copytree(toy_folder, tmp_path / "damaged")
    batches = ClipLoader(config_of(folder, batch=23, workers=workers), "train").batches()
    for shard in folder.glob("train-*.tar"):  # after the loader has looked at its first clip
        shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(UserError, match=r"train-0000\d-00\d\.tar at byte \d+ is damaged"):
        next(batches)


def test_damage_that_a_worker_finds_is_an_error_for_the_user(toy_folder, tmp_path):
    folder = shutil.copytree(toy_folder, tmp_path / "damaged")
    batches = ClipLoader(config_of(folder, batch=1, workers=2), "train").batches()
    for _ in range(3):
        next(batches)
    for shard in folder.glob("train-*.tar"):
        shard.write_bytes(b"")
    with pytest.raises(UserError, match=r"train-0000\d-00\d\.tar at byte \d+ is damaged"):
        for _ in range(23):
            next(batches)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [("data.batch=0", "data: batch"), ("data.frames=0", "data: frames"), ("data.workers=-1", "data: workers"),
     ("data.sources=[{folder: a, weight: 0}]", "data.sources.0: weight"),
     ("data.sources=[{folder: a, weight: .inf}]", "data.sources.0: weight"),
     ("data.sources=[{folder: a}, {folder: b, clips: 0}]", "data.sources.1: clips")],
)  # fmt: skip
def test_numbers_out_of_range_are_named_with_their_path(tmp_path, setting, complaint):
    @configclass
    class Config:
        data: DataConfig

    file = tmp_path / "data.yaml"
    file.write_text("data: {sources: [{folder: a}], frames: 4, batch: 2}")
    assert load_config(Config, [file]).data.batch == 2
    with pytest.raises(UserError, match=re.escape(complaint)):
        load_config(Config, [file], [setting])
