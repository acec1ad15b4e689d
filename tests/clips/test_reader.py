import gc
import json
import os
import pickle
import shutil
import tarfile
import warnings

import numpy as np
import pytest
import webdataset as wds

from whale.clips.codec import decode, read_film_strip
from whale.clips.index import index_path
from whale.clips.manifest import hash_of, read_manifest
from whale.clips.open_files import OpenFiles
from whale.clips.reader import ClipReader
from whale.clips.window import Windows
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


@pytest.mark.parametrize("kind", ["pixels", "tokens"])
def test_every_bit_of_an_index_row_and_of_a_clip_counts(tmp_path, make_clip, make_folder, kind):
    reader = ClipReader(make_folder(tmp_path / "f", [[make_clip(i, 3, kind) for i in range(3)]]), "train")
    index, starts = reader.index.copy(), np.zeros(1, np.int64)

    def read_everyhow():
        shape = (1, 3, 8, 8, 3) if kind == "pixels" else (1, 3, 4)
        body = np.empty(shape, np.uint8 if kind == "pixels" else np.uint16)
        yield lambda: reader.read(1)
        yield lambda: reader.fill(Windows.zeros(starts, 3, body), np.array([0]), np.array([1]))

    for attempt in read_everyhow():
        for bit in range(8 * index.itemsize):
            raw = bytearray(index.tobytes())
            raw[index.itemsize + bit // 8] ^= 1 << bit % 8
            reader.index = np.frombuffer(raw, index.dtype)
            with pytest.raises(UserError, match="is damaged"):
                attempt()
        reader.index = index
        attempt()
        path = reader.folder / reader.shards[0].name
        whole, begin = path.read_bytes(), int(index["offset"][1])
        for at in np.linspace(0, int(index["length"][1]) - 1, 300).astype(int):
            path.write_bytes(whole[: begin + at] + bytes([whole[begin + at] ^ 1 << at % 8]) + whole[begin + at + 1 :])
            with pytest.raises(UserError, match=f"clip 00000000001 in {path} at byte {begin} is damaged"):
                attempt()
        path.write_bytes(whole[: begin + 700])
        with pytest.raises(UserError, match="is damaged"):
            attempt()
        path.write_bytes(whole)


def test_no_more_files_are_open_than_agreed(toy_folder):
    def opened():
        links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if name.isdigit()
                 if os.path.lexists(f"/proc/self/fd/{name}")]
        return sum(link.startswith(str(toy_folder)) for link in links)

    files = OpenFiles(3)
    readers = [ClipReader(toy_folder, split, files=files) for split in ("train", "val")]
    assert len(readers[0].shards) > 3 and opened() == 0
    for k in [*range(23), 0, 11, 22, 11]:
        readers[0].read(k)
        readers[1].read(k % len(readers[1]))
        assert opened() == len(files) <= 3
    copy = pickle.loads(pickle.dumps(readers))
    assert copy[0].files is copy[1].files and len(copy[0].files) == 0
    del readers, files
    gc.collect()
    assert opened() == 0


def test_the_index_is_an_array_for_anybody(toy_folder):
    reader = ClipReader(toy_folder, "train")
    rows = np.concatenate([np.load(index_path(toy_folder / shard.name)) for shard in reader.shards])
    assert np.array_equal(rows, reader.index)
    clip, row = reader.read(4), rows[4]
    raw = (toy_folder / reader.shards[reader.locate(4)[0]].name).read_bytes()[int(row["offset"]) :]
    for name, count in (("actions", 7), ("rewards", 1), ("proprio", int(row["proprio_dim"]))):
        found = np.frombuffer(raw, "<f4", int(row["num_frames"]) * count, int(row[f"{name}_at"]))
        assert np.array_equal(found, getattr(clip, name).ravel())
    png = raw[int(row["body_at"]) :][: int(row["body_bytes"])]
    assert np.array_equal(read_film_strip(png, int(row["num_frames"])), clip.frames)


def test_plain_webdataset_opens_token_clips(tmp_path, make_clip, make_folder):
    folder = make_folder(tmp_path / "tokens", [[make_clip(i, kind="tokens") for i in range(5)]])
    reader = ClipReader(folder, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        samples = list(wds.WebDataset(str(folder / reader.shards[0].name), shardshuffle=False).decode())
        gc.collect()
    assert [sample["__key__"] for sample in samples] == [f"{k:011d}" for k in range(5)]
    assert all(np.array_equal(sample["tokens.npy"], reader.read(k).tokens) for k, sample in enumerate(samples))


def test_an_index_of_another_kind_is_refused(copy):
    path = index_path(copy / read_manifest(copy).shards[0].name)
    whole = path.read_bytes()
    np.save(path, np.zeros(4, [("offset", "<u8"), ("length", "<u8")]))
    with pytest.raises(UserError, match="no clip index of this format version"):
        ClipReader(copy, "train")
    for content in (b"", whole[:100], whole[:-1], whole + b"x", whole[:512]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="no clip index of this format version"):
            ClipReader(copy, "train")


def test_names_that_leave_the_folder_are_refused(copy):
    path = copy / "manifest.json"
    values = json.loads(path.read_text())
    values["shards"][0]["name"] = "../train-00000-000.tar"
    facts = {key: value for key, value in values.items() if key not in ("hash", "splits")}
    path.write_text(json.dumps(values | {"hash": hash_of(facts)}))
    with pytest.raises(UserError, match=r"names the shard '\.\./train-00000-000.tar'"):
        read_manifest(copy)
