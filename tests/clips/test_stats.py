import itertools
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whale.clips.reader import ClipReader
from whale.clips.stats import Summary, read_scale, read_stats
from whale.errors import UserError
from whale.models.dataset_card import dataset_card

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def summary_of(pieces, columns):
    summary = Summary(columns)
    for piece in pieces:
        summary.add(piece)
    summary.begin_again()
    for piece in pieces:
        summary.add_again(piece)
    return summary.values()


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 250), st.integers(1, 3)), elements=FLOATS), st.data())
def test_quantiles_are_exact_however_the_values_come(values, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    pieces = np.split(values, cuts)
    found = summary_of(pieces, values.shape[1])
    low, high = np.quantile(values, [0.01, 0.99], axis=0, method="nearest")
    assert found["q01"] == low.tolist() and found["q99"] == high.tolist()
    assert found["min"] == values.min(0).tolist() and found["max"] == values.max(0).tolist()
    exact = values.astype(np.float64)
    size = max(1e-30, float(np.abs(exact).max()))
    assert np.allclose(np.array(found["mean"]) / size, (exact / size).mean(0), atol=1e-12)
    assert np.allclose(np.array(found["std"]) / size, (exact / size).std(0), atol=1e-9)


def test_a_constant_has_no_spread_and_zeros_have_no_sign():
    found = summary_of([np.full((1000, 1), 0.1, np.float32), np.full((77, 1), 0.1, np.float32)], 1)
    assert found["q01"] == found["q99"] == found["min"] == [np.float32(0.1)] and found["std"][0] < 1e-15
    assert str(summary_of([np.full((5, 1), -0.0, np.float32)], 1)["q01"]) == "[0.0]"


def test_a_folder_has_the_statistics_of_its_known_train_actions(toy_folder):
    reader = ClipReader(toy_folder, "train")
    clips = [reader.read(k) for k in range(len(reader))]
    actions = np.concatenate([clip.actions[clip.action_known] for clip in clips])
    rewards = np.concatenate([clip.rewards[clip.action_known] for clip in clips])
    found = read_stats(toy_folder)
    assert found["actions"]["count"] == len(actions) and found["rewards"]["count"] == len(rewards)
    assert found["num_frames"] == sum(clip.num_frames for clip in clips)
    assert np.allclose(found["actions"]["mean"], actions.mean(0, np.float64), rtol=1e-12)
    assert np.isclose(found["rewards"]["std"], rewards.astype(np.float64).std(), rtol=1e-12)
    assert read_scale(toy_folder)[1].low == tuple(np.quantile(actions, 0.01, axis=0, method="nearest").tolist())


def test_clips_without_a_known_action_or_rewards(tmp_path, make_clip, make_folder):
    folder = make_folder(tmp_path / "a", [[make_clip(0, rewards=None)]])
    assert read_stats(folder)["rewards"] is None
    with pytest.raises(UserError, match=r"no train clip in .* has a known action"):
        make_folder(tmp_path / "b", [[make_clip(0, action_known=np.zeros(6, bool))]])


def test_statistics_that_were_changed_are_refused(toy_folder, tmp_path):
    folder = shutil.copytree(toy_folder, tmp_path / "copy")
    path = folder / "stats.json"
    whole = path.read_bytes()
    values = json.loads(whole)
    values["actions"]["q99"][0] += 1e-3
    for content in (json.dumps(values), "{}", "[]", "null", "", whole[:-20]):
        path.write_text(content) if isinstance(content, str) else path.write_bytes(content)
        for use in (read_scale, dataset_card):
            with pytest.raises(UserError, match=r"stats\.json (is damaged|does not match its own hash)"):
                use(folder)


def test_the_numbers_are_read_without_the_frames(toy_folder, tmp_path):
    from whale.clips.manifest import read_manifest
    from whale.clips.stats import write_stats

    folder = shutil.copytree(toy_folder, tmp_path / "copy")
    before = (folder / "stats.json").read_bytes()
    reader = ClipReader(folder, "train")
    for k, shard in itertools.product(range(1), reader.shards):
        row = reader.index[reader.of_shard(reader.shards.index(shard))[k]]
        raw = bytearray((folder / shard.name).read_bytes())
        raw[int(row["offset"] + row["body_at"]) + 5] ^= 1
        (folder / shard.name).write_bytes(raw)
    write_stats(folder, read_manifest(folder))
    assert (folder / "stats.json").read_bytes() == before
