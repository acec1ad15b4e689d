import pytest
from hypothesis import given
from hypothesis import strategies as st

from whale.data_prep.source import InputShard
from whale.data_prep.split import Seen, assign, make_table
from whale.errors import UserError

names = st.lists(st.text(max_size=5), min_size=2, unique=True)


@given(sources=names, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_both_sides_have_a_source_in_any_order(sources, fraction, seed):
    split = assign(sources, fraction, seed)
    assert set(split.values()) == {"train", "val"} and set(split) == set(sources)
    assert assign(sources[::-1] * 2, fraction, seed) == split


def test_the_fraction_is_met_and_more_sources_move_none():
    few, many = ([f"episode-{i}" for i in range(n)] for n in (500, 2000))
    a, b = assign(few, 0.3, 1), assign(many, 0.3, 1)
    assert all(a[source] == b[source] for source in few)
    assert 520 < sum(side == "val" for side in b.values()) < 680


def test_one_source_cannot_be_split():
    with pytest.raises(UserError, match="cut from one recording"):
        assign(["a", "a"], 0.5, 0)


def test_duplicates_are_found_across_shards_and_splits():
    shards = [InputShard(0, "a", "train", 0, 2, 9), InputShard(1, "b", "train", 2, 1, 9),
              InputShard(2, "c", "val", 0, 2, 9)]
    seen = [[Seen("s", "x"), Seen("t", "y")], [Seen("t", "x")], [Seen("t", "z"), Seen("s", "y")]]
    table = make_table(shards, seen, 0.5, 0, "settings")
    assert table.duplicates == {"train[2]": "train[0]", "val[1]": "train[1]"}
    assert table.same_records == ("train and val of the source share 1 records",)
