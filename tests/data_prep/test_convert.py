import json
import shutil

import numpy as np
import pytest

from whale.clips.manifest import read_manifest
from whale.clips.reader import ClipReader


def test_a_restart_does_what_is_missing_and_gives_the_same_bytes(clips, convert, bytes_of, tmp_path):
    copy = shutil.copytree(clips, tmp_path / "copy")
    (copy / "manifest.json").unlink()
    (copy / "records/00001.json").unlink()
    shard = next(copy.glob("train-00002-*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1])
    kept = next(copy.glob("train-00000-*.tar")).stat().st_mtime_ns
    (copy / ".tmp-train-00001-000.tar").write_bytes(b"left by a killed run")
    ran = convert(copy)
    assert "1 of 3 input shards were done before" in ran.err
    assert next(copy.glob("train-00000-*.tar")).stat().st_mtime_ns == kept
    assert bytes_of(copy) == bytes_of(clips)


@pytest.mark.parametrize("lost", [
    "train-00001-000.idx.npy", "stats.json", "convert_report.json", "quarantine.json", "split.json", "episodes.npy",
    "manifest.json",
])  # fmt: skip
def test_the_same_command_restores_what_was_lost_and_touches_nothing_else(clips, convert, bytes_of, tmp_path, lost):
    copy = shutil.copytree(clips, tmp_path / "copy")
    others = [path for path in copy.glob("*.tar") if "-00001-" not in lost or "-00001-" not in path.name]
    before = {path: path.stat().st_mtime_ns for path in others}
    (copy / lost).unlink()
    convert(copy)
    assert bytes_of(copy) == bytes_of(clips)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_another_version_left_is_done_again(clips, convert, bytes_of, tmp_path):
    """Records and notes of another version cannot be read: they are as good as not there."""
    folder = shutil.copytree(clips, tmp_path / "clips")
    record = json.loads((folder / "records/00001.json").read_text())
    del record["shards"][0]["sha256"]
    (folder / "records/00001.json").write_text(json.dumps(record))
    (folder / "split.json").unlink()
    (folder / "notes").mkdir()
    (folder / "notes/00000.json").write_text('{"looked_at": "", "seen": []}')
    convert(folder)
    assert bytes_of(folder) == bytes_of(clips)


def test_a_complete_folder_is_left_alone(clips, convert, tmp_path):
    copy = shutil.copytree(clips, tmp_path / "copy")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert "24 episodes" in convert(copy).out
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_the_reader_does_not_change_a_byte(clips, convert, bytes_of, tmp_path):
    convert(tmp_path / "out", reader="tfds")
    assert bytes_of(tmp_path / "out") == bytes_of(clips)


def test_other_settings_replace_everything(clips, convert, bytes_of, tmp_path):
    copy = shutil.copytree(clips, tmp_path / "copy")
    (copy / "mine.tar").write_bytes(b"of somebody else")
    convert(copy, clip_frames=5, size_px=32)
    (copy / "mine.tar").unlink()
    convert(tmp_path / "fresh", clip_frames=5, size_px=32)
    assert bytes_of(copy) == bytes_of(tmp_path / "fresh")
    whole, parts = ClipReader(clips, "train"), ClipReader(copy, "train")
    windows = [min(5, n - start) for n in whole.num_frames.tolist() for start in range(0, n - 1, 5)]
    assert parts.num_frames.tolist() == windows and {5, 2} <= set(windows)
    first = [parts.read(k) for k in range(3)]
    assert [clip.info.start for clip in first] == [0, 5, 10] and first[0].frames.shape == (5, 32, 32, 3)
    assert np.array_equal(np.concatenate([clip.actions for clip in first]), whole.read(0).actions)
    assert whole.read(0).info.source == first[2].info.source


def test_no_episode_is_on_both_sides_and_the_report_counts_all(clips):
    episodes = {}
    for split in ("train", "val"):
        reader = ClipReader(clips, split)
        episodes[split] = {reader.read(k, with_frames=False).info.episode for k in range(len(reader))}
    assert not episodes["train"] & episodes["val"] and len(episodes["train"] | episodes["val"]) == 24
    report = json.loads((clips / "convert_report.json").read_text())
    assert report["episodes"] == 24 and report["skipped"] == {} == read_manifest(clips).skipped
    assert report["splits"]["val"]["frames"] == ClipReader(clips, "val").num_frames.sum()


def test_bridge_duplicates_are_reported_and_recordings_kept_apart(bridge, convert, whale, tmp_path):
    ran = convert(tmp_path / "clips", source=bridge, camera="image_0", val_fraction=0.25)
    assert "train and val of the source hold the same 25 records" in ran.out
    assert "record 3: duplicate: of train[0]" in ran.out and "skipped: 25 duplicate" in ran.out
    report = json.loads((tmp_path / "clips/convert_report.json").read_text())
    assert report["splits"]["train"]["sources"] == 3
    left_out = json.loads((tmp_path / "clips/quarantine.json").read_text())["episodes"]
    assert len(left_out) == 25 and {one["file"] for one in left_out} == {"bridge_dataset-val.tfrecord-00000-of-00001"}
    files = {}
    for split in ("train", "val"):
        reader = ClipReader(tmp_path / "clips", split)
        found = [reader.read(k) for k in range(len(reader))]
        files[split] = {clip.info.episode.split("#")[0] for clip in found}
        for clip in found:
            assert clip.num_frames == 10 and clip.rewards is None and not clip.is_last.any()
            assert clip.action_known.tolist() == [True] * 9 + [False]
            reached = np.cumsum(clip.actions[:9, :3], 0) + clip.proprio[0, :3]
            assert np.allclose(reached, clip.proprio[1:, :3], atol=1e-6)
            assert clip.frames.std() > 10 and clip.actions[:, 6].min() >= 0 and clip.actions[:, 6].max() <= 1
    assert files["train"] and files["val"] and not files["train"] & files["val"]
    ran = whale("convert", source=bridge, out=tmp_path / "black", camera="image_3")
    assert ran.code == 2 and "25 camera black, 25 duplicate" in ran.err
    assert not [path for path in (tmp_path / "black").rglob("*") if path.is_file()]
