import gc
import json
import pickle
import shutil
import tarfile
import warnings

import numpy as np
import pytest
import webdataset as wds

from whale.clips.codec import decode
from whale.clips.manifest import read_manifest
from whale.clips.reader import ClipReader
from whale.errors import UserError


@pytest.fixture
def copy(toy_folder, tmp_path):
    return shutil.copytree(toy_folder, tmp_path / "copy")


def test_one_pread_reads_what_the_tar_module_reads(toy_folder):
    reader = ClipReader(toy_folder, "train")
    expected = []
    for shard in reader.shards:
        with tarfile.open(toy_folder / shard.name) as tar:
            samples: dict = {}
            for member in tar.getmembers():
                key, _, extension = member.name.partition(".")
                samples.setdefault(key, {})[extension] = tar.extractfile(member).read()
            expected += [decode(members) for members in samples.values()]
    assert len(reader) == len(expected) == 23
    for k, clip in enumerate(expected):
        got = reader.read(k)
        assert got.info == clip.info
        assert np.array_equal(got.frames, clip.frames) and np.array_equal(got.actions, clip.actions)
        assert reader.num_frames[k] == clip.num_frames
    with pytest.raises(IndexError):
        reader.read(23)


def test_plain_webdataset_opens_the_shards(toy_folder):
    reader = ClipReader(toy_folder, "train")
    urls = [str(toy_folder / shard.name) for shard in reader.shards]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves the files to the garbage collector
        samples = list(wds.WebDataset(urls, shardshuffle=False).decode("rgb8"))
        gc.collect()
    assert len(samples) == len(reader)
    for k, sample in enumerate(samples):
        clip = reader.read(k)
        assert np.array_equal(sample["frames.png"].reshape(clip.frames.shape), clip.frames)
        assert np.array_equal(sample["actions.npy"], clip.actions)
        assert np.array_equal(sample["rewards.npy"], clip.rewards)
        assert sample["json"]["episode"] == clip.info.episode


def test_a_reader_sent_to_another_process_reads_on(toy_folder):
    reader = ClipReader(toy_folder, "val")
    reader.read(0)
    assert np.array_equal(pickle.loads(pickle.dumps(reader)).read(1).frames, reader.read(1).frames)


def test_a_truncated_and_a_missing_shard_are_named(copy):
    first, second = (copy / shard.name for shard in read_manifest(copy).of_split("train")[:2])
    first.write_bytes(first.read_bytes()[:-700])
    second.unlink()
    with pytest.raises(UserError) as error:
        ClipReader(copy, "train")
    assert first.name in str(error.value) and f"{second.name} is missing" in str(error.value)


def test_damage_inside_a_shard_names_the_clip(copy):
    shard = copy / read_manifest(copy).of_split("train")[0].name
    reader = ClipReader(copy, "train")
    raw = bytearray(shard.read_bytes())
    raw[int(reader.index["offset"][2]) + 3] ^= 255
    shard.write_bytes(raw)
    reader.read(1)
    with pytest.raises(UserError, match=rf"clip 00000000002 in .*{shard.name} at byte \d+ is damaged"):
        reader.read(2)


def test_other_versions_and_changed_manifests_are_refused(copy):
    path = copy / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"format_version": 3}))
    with pytest.raises(UserError, match="format version 3"):
        read_manifest(copy)
    path.write_text(json.dumps(values | {"dataset": "other"}))
    with pytest.raises(UserError, match="own hash"):
        read_manifest(copy)
    path.write_text("{}")
    with pytest.raises(UserError, match="not a clip manifest"):
        read_manifest(copy)
    path.unlink()
    with pytest.raises(UserError, match=r"no manifest.json"):
        ClipReader(copy, "train")
