import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numbered_video import number_in, write_video

from whale.clips.reader import ClipReader
from whale.data_prep import bare
from whale.data_prep.source import Episode, Unreadable, open_source
from whale.errors import UserError

LENGTHS = {"a": 8, "b": 11, "c": 6}


def actions_of(name: str) -> np.ndarray:
    return np.random.default_rng(ord(name)).normal(size=(LENGTHS[name], 7)).round(6)


def write(folder: Path, cameras: tuple[str, ...] = (), suffix: str = ".npy", extra_frames: int = 0) -> Path:
    folder.mkdir()
    for number, (name, length) in enumerate(LENGTHS.items()):
        frames = range(100 * number, 100 * number + length + extra_frames)
        for path in [folder / name / f"{camera}.mp4" for camera in cameras] or [folder / f"{name}.mp4"]:
            write_video(path, frames)
        if suffix == ".npy":
            np.save(folder / f"{name}.npy", actions_of(name))
        else:
            np.savetxt(folder / f"{name}.csv", actions_of(name), delimiter=",")
    (folder / "b.json").write_text(json.dumps({"instruction": "close it", "success": True, "operator": "x"}))
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "demos")


def read(folder: Path, cameras: tuple[str, ...] = ("video",)) -> list[Episode | Unreadable]:
    source = open_source(str(folder))
    return [one for shard in source.shards for one in source.read(shard, cameras)]


@pytest.mark.parametrize("cameras", [(), ("front", "wrist")])
@pytest.mark.parametrize("suffix", [".npy", ".csv"])
@pytest.mark.parametrize("extra_frames", [0, 1])
def test_what_was_written_is_read(tmp_path, cameras, suffix, extra_frames):
    found = read(write(tmp_path / "demos", cameras, suffix, extra_frames), cameras or ("video",))
    assert [one.metadata["episode"] for one in found] == list(LENGTHS)
    for number, (name, one) in enumerate(zip(LENGTHS, found, strict=True)):
        np.testing.assert_allclose(one.steps["action"], actions_of(name), atol=1e-12)
        for camera in cameras or ("video",):
            frames = one.steps["observation"][camera].decode(range(LENGTHS[name]), None)
            assert [number_in(frame) for frame in frames] == [100 * number + t for t in range(LENGTHS[name])]
        assert one.steps["is_last"].tolist() == [False] * (LENGTHS[name] - 1) + [True]
        assert one.metadata["video_frames"] == one.metadata["rows"] + extra_frames
    assert found[1].steps["language_instruction"] == ["close it"] * LENGTHS["b"]
    assert (found[1].metadata["success"], found[1].metadata["operator"]) == (True, "x")
    assert "language_instruction" not in found[0].steps


def test_work_is_shared_out_in_runs_of_episodes(folder, monkeypatch):
    monkeypatch.setattr(bare, "EPISODES_A_UNIT", 2)
    source = open_source(str(folder))
    assert [(shard.unit, shard.first, shard.num_records) for shard in source.shards] == [(0, 0, 2), (1, 2, 1)]
    names = [[one.metadata["episode"] for one in source.read(shard, ["video"])] for shard in source.shards]
    assert names == [["a", "b"], ["c"]]


FAULTS = {
    "no actions": (lambda f: (f / "b.npy").unlink(), r"b: it has no actions: neither b.npy nor b.csv"),
    "one number a step": (lambda f: np.save(f / "b.npy", np.zeros(11)), r"b: actions are float64 \[11\]"),
    "texts": (lambda f: np.save(f / "b.npy", np.full((11, 7), "x")), r"b: actions are <U1"),
    "objects": (lambda f: np.save(f / "b.npy", np.full((11, 7), None), allow_pickle=True), r"b: .*allow_pickle"),
    "no array": (lambda f: (f / "b.npy").write_text("7"), r"b: .*"),
    "a header": (lambda f: ((f / "b.npy").unlink(), (f / "b.csv").write_text("x,y\n1,2\n")), r"b: could not convert"),
    "too few frames": (lambda f: write_video(f / "b.mp4", range(10)), r"b: .*b.mp4 has 10 frames for 11 rows"),
    "no video": (lambda f: (f / "b.mp4").write_bytes(b"x" * 100), r"b: .*b.mp4 is damaged, or no video"),
    "a list for metadata": (lambda f: (f / "b.json").write_text("[]"), r"b: b.json holds no JSON object"),
    "no metadata": (lambda f: (f / "b.json").write_text("{"), r"b: Expecting"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_an_episode_is_told_and_the_others_are_read(folder, fault):
    do, reason = FAULTS[fault]
    do(folder)
    first, wrong, last = read(folder)
    assert isinstance(wrong, Unreadable)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(wrong.reason)
    assert (first.metadata["episode"], last.metadata["episode"], last.record) == ("a", "c", 2)


def test_an_episode_without_the_camera(tmp_path):
    folder = write(tmp_path / "demos", ("front", "wrist"))
    (folder / "a" / "wrist.mp4").unlink()
    found = read(folder, ("wrist",))
    assert found[0].reason == "a: it has no camera 'wrist'"
    assert all(isinstance(one, Episode) for one in found[1:])
    with pytest.raises(UserError, match=r"no camera 'side'\n.*front, wrist"):
        read(folder, ("side",))


def test_videos_must_be_here(folder):
    import fsspec

    address = f"memory://{folder.parent.name}/demos"
    fsspec.filesystem("memory").pipe(f"{address}/a.mp4", b"")
    with pytest.raises(UserError, match="not on this machine"):
        open_source(address)


def test_a_folder_of_something_else_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"features.json.*meta/info.json.*mp4"):
        open_source(str(tmp_path))


def test_it_converts(folder, whale, tmp_path):
    spec = {
        "name": "demos", "cameras": {"video": "external"}, "control_period_sec": 0.05,
        "action": {"position": {"key": "action", "size": 3}, "rotation": {"key": "action", "first": 3, "size": 3},
                   "gripper": {"key": "action", "first": 6}},
    }
    shutil.copy(folder / "a.mp4", folder / "d.mp4")  # an episode without actions
    ran = whale("convert", source=folder, out=tmp_path / "clips", camera="video", size_px=32, val_fraction=0.4,
                spec=json.dumps(spec))
    assert ran.code == 1, ran.err
    quarantined = json.loads((tmp_path / "clips/quarantine.json").read_text())
    assert "d: it has no actions" in json.dumps(quarantined)
    readers = [ClipReader(tmp_path / "clips", split) for split in ("train", "val")]
    clips = [reader.read(i) for reader in readers for i in range(len(reader))]
    assert sorted(len(clip.frames) for clip in clips) == sorted(LENGTHS.values())
    for clip in clips:
        name = list(LENGTHS)[clip.info.source.record]
        np.testing.assert_allclose(clip.actions[:-1, :3], actions_of(name)[:-1, :3], atol=1e-6)
        assert clip.info.instruction == ("close it" if name == "b" else None)
