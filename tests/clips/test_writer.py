import hashlib

import numpy as np
import pytest

from whale.clips.index import read_index
from whale.clips.writer import ShardWriter


def bytes_of(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_writing_the_same_clips_again_gives_the_same_bytes(tmp_path, make_clip, make_folder):
    units = [[make_clip(0), make_clip(1, split="val")], [make_clip(2, steps=3)]]
    assert bytes_of(make_folder(tmp_path / "a", units)) == bytes_of(make_folder(tmp_path / "b", units))


def test_shards_roll_over_and_carry_their_hashes(tmp_path, make_clip):
    with ShardWriter(tmp_path, 3, max_clips=2) as writer:
        keys = [writer.write(make_clip(i, split="val" if i == 2 else "train")) for i in range(6)]
    assert keys == [3_000_000 + i for i in range(6)]
    assert [(s.name, s.num_clips) for s in writer.shards] == [
        ("train-00003-000.tar", 2), ("val-00003-000.tar", 1), ("train-00003-001.tar", 2), ("train-00003-002.tar", 1),
    ]
    for shard in writer.shards:
        path = tmp_path / shard.name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard.sha256
        assert path.stat().st_size == shard.num_bytes
        assert int(read_index(path)["num_frames"].sum()) == shard.num_frames
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_byte_limit_rolls_over_too(tmp_path, make_clip):
    with ShardWriter(tmp_path, 0, max_bytes=1) as writer:
        for i in range(3):
            writer.write(make_clip(i))
    assert [s.num_clips for s in writer.shards] == [1, 1, 1]


def test_an_exception_leaves_nothing(tmp_path, make_clip):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, 0, max_clips=1) as writer:
        writer.write(make_clip(0))
        writer.write(make_clip(1))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_clip_that_is_not_finite_is_refused(make_clip):
    with pytest.raises(ValueError, match="not finite"):
        make_clip(0, rewards=np.full(6, np.nan, np.float32))
