import dataclasses
import io
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whale.clips.codec import decode, encode, from_tar, to_tar


def assert_equal(a, b):
    assert a.info == b.info
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype and np.array_equal(x, y), field.name
        elif field.name != "info":
            assert x is None and y is None, field.name


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6), steps=st.integers(1, 12), kind=st.sampled_from(["pixels", "tokens"]),
    size=st.integers(1, 20), rewards=st.booleans(), proprio=st.booleans(), text=st.none() | st.text(),
)
def test_a_clip_survives_the_tar_and_equal_clips_are_equal_bytes(
    make_clip, seed, steps, kind, size, rewards, proprio, text
):
    absent = ({} if rewards else {"rewards": None}) | ({} if proprio else {"proprio": None})
    clip = make_clip(seed, steps, kind, size=size, **absent)
    clip = dataclasses.replace(clip, info=dataclasses.replace(clip.info, instruction=text))
    raw = to_tar("00000000007", encode(clip))
    key, members = from_tar(raw)
    assert key == "00000000007"
    assert_equal(decode(members), clip)
    assert to_tar(key, encode(decode(members))) == raw


def test_the_tar_module_reads_the_same_members(make_clip):
    members = encode(make_clip(3))
    raw = to_tar("00000000001", members)
    with tarfile.open(fileobj=io.BytesIO(raw + bytes(1024))) as tar:
        found = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
        assert all(m.mtime == m.uid == m.gid == 0 for m in tar.getmembers())
    assert found == {f"00000000001.{extension}": content for extension, content in members.items()}


@given(at=st.integers(0, 511), bit=st.integers(0, 7))
def test_a_damaged_header_is_noticed(make_clip, at, bit):
    raw = bytearray(to_tar("00000000001", encode(make_clip(3, steps=2))))
    raw[at] ^= 1 << bit
    try:
        key, members = from_tar(bytes(raw))
    except ValueError:
        return
    assert (key, set(members)) == ("00000000001", set(encode(make_clip(3, steps=2))))  # padding of a number field


def test_another_format_version_is_refused(make_clip):
    members = encode(make_clip(1))
    members["json"] = members["json"].replace(b'"format_version": 2', b'"format_version": 1')
    with pytest.raises(ValueError, match="format version 1"):
        decode(members)
