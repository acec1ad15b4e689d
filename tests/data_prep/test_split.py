import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whale.data_prep.duplicates import ROW
from whale.data_prep.source import InputShard
from whale.data_prep.split import make_table, place_of, read_table, threshold, write_table
from whale.errors import UserError

names = st.lists(st.text(max_size=5), min_size=2, unique=True)


def sides(sources, fraction, seed):
    places = np.array([place_of(source, seed) for source in sources], np.uint64)
    below = threshold(places, fraction)
    return {source: "val" if place_of(source, seed) < below else "train" for source in sources}


@given(sources=names, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_both_sides_have_a_source_in_any_order(sources, fraction, seed):
    split = sides(sources, fraction, seed)
    assert set(split.values()) == {"train", "val"}
    assert sides(sources[::-1] * 2, fraction, seed) == split


def test_the_fraction_is_met_and_more_sources_move_none():
    few, many = ([f"episode-{i}" for i in range(n)] for n in (500, 2000))
    a, b = sides(few, 0.3, 1), sides(many, 0.3, 1)
    assert all(a[source] == b[source] for source in few)
    assert 520 < sum(side == "val" for side in b.values()) < 680


def rows_of(*episodes):
    """Rows of (unit, record, source, content); a source of None is of no use."""
    rows = np.zeros(len(episodes), ROW)
    for row, (unit, record, source, content) in zip(rows, episodes, strict=True):
        row["unit"], row["record"], row["content"] = unit, record, content
        if source is not None:
            row["num_steps"], row["place"] = 9, place_of(source, 0)
    return rows


SHARDS = [InputShard(0, "a", "train", 0, 2, 9), InputShard(1, "b", "train", 2, 1, 9),
          InputShard(2, "c", "val", 0, 2, 9)]


def test_one_source_cannot_be_split():
    with pytest.raises(UserError, match="cut from one recording"):
        make_table(SHARDS, rows_of((0, 0, "a", 1), (0, 1, "a", 2), (1, 0, None, 0)), [], 0.5, "settings")


def test_duplicates_are_found_across_shards_and_splits_and_what_is_left_is_split():
    rows = rows_of((0, 0, "s", 1), (0, 1, "t", 2), (1, 0, "t", 1), (2, 0, "t", 3), (2, 1, "u", 2))
    table = make_table(SHARDS, rows, [], 0.5, "settings")
    assert table.duplicates == {"train[2]": "train[0]", "val[1]": "train[1]"}
    assert table.same_records == ("train and val of the source share 1 records",)
    assert table.sources == {"train": 1, "val": 1}  # nothing is left of u


def test_what_an_earlier_folder_holds_is_left_out(tmp_path):
    known = [(tmp_path / "x", rows_of((0, 0, "a", 7))), (tmp_path / "y", rows_of((3, 4, "b", 2), (3, 5, "c", 8)))]
    rows = rows_of((0, 0, "s", 1), (0, 1, "t", 2), (1, 0, "t", 3), (2, 0, "t", 8), (2, 1, "u", 2))
    table = make_table(SHARDS, rows, known, 0.5, "settings")
    first, second = (f"record {record} of input shard 3 in {tmp_path / 'y'}" for record in (4, 5))
    assert table.duplicates == {"train[1]": first, "val[0]": second, "val[1]": first}


def test_a_table_is_read_with_its_settings_and_its_episodes_alone(tmp_path):
    rows = rows_of((0, 0, "s", 1), (0, 1, "t", 2))
    table = make_table(SHARDS, rows, [], 0.5, "settings")
    write_table(tmp_path, table, rows)
    assert read_table(tmp_path, "settings") == table and read_table(tmp_path, "others") is None
    rows["content"][0] ^= 1
    np.save(tmp_path / "episodes.npy", rows)
    assert read_table(tmp_path, "settings") is None
    (tmp_path / "episodes.npy").write_bytes(b"")
    assert read_table(tmp_path, "settings") is None


def test_a_million_episodes_are_decided_in_little_time_and_memory():
    dice = np.random.default_rng(0)
    rows = np.zeros(1_000_000, ROW)
    rows["num_steps"], rows["record"] = 50, np.arange(len(rows))
    for name in ("place", "content", "motion"):
        rows[name] = dice.integers(1, 2**64, len(rows), np.uint64)
    rows["content"][-5:] = rows["content"][:5]
    table = make_table([InputShard(0, "a", "train", 0, len(rows), 1)], rows, [], 0.05, "settings")
    assert list(table.duplicates) == [f"train[{len(rows) - 5 + i}]" for i in range(5)]
    assert 0.045 < table.sources["val"] / len(rows) < 0.055 and rows.itemsize < 100
