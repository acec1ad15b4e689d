"""Folders of all three versions, written here from the same episodes, and everything that can be wrong with them."""

import functools
import json
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numbered_video import frame_of, join_videos, number_in, write_video

from whale.data_prep.images import decode_frames
from whale.data_prep.lerobot import LeRobotSource
from whale.data_prep.source import Episode, Unreadable, open_source
from whale.errors import UserError

LENGTHS = (7, 12, 5, 9, 8)
TASKS = ("close the drawer", "open it")
CAMERAS = ("images/top", "images/side")
VERSIONS = ("v2.0", "v2.1", "v3.0")
SCHEMA = {"timestamp": pa.float32(), "frame_index": pa.int64(), "episode_index": pa.int64(), "task_index": pa.int64()}


def rows_of(index: int) -> dict[str, np.ndarray]:
    """The columns of an episode."""
    random, length = np.random.default_rng(index), LENGTHS[index]
    return {
        "observation.state": random.normal(size=(length, 6)).astype(np.float32),
        "action": random.normal(size=(length, 4)).astype(np.float32),
        "action.original": random.normal(size=(length, 2)),
        "timestamp": np.arange(length) / 20,
        "frame_index": np.arange(length),
        "episode_index": np.full(length, index),
        "task_index": np.full(length, index % 2),
        "next.reward": random.random(length),
        "next.done": np.arange(length) == length - 1,
    }


def table_of(columns: dict[str, np.ndarray], as_json: bool) -> pa.Table:
    def stored(name: str, values: np.ndarray) -> pa.Array:
        if values.ndim == 2:
            return pa.array([json.dumps(row) for row in values.tolist()] if as_json else values.tolist())
        return pa.array(values, SCHEMA.get(name))

    return pa.table({name: stored(name, values) for name, values in columns.items()})


def png(index: int, t: int) -> bytes:
    import cv2

    return cv2.imencode(".png", frame_of(100 * index + t, 48, 80)[..., ::-1])[1].tobytes()


@functools.cache
def film(index: int, frames: int) -> bytes:
    """The video of an episode: encoded once, for x264 may give other bytes each time."""
    with tempfile.TemporaryDirectory() as work:
        write_video(Path(work, "film.mp4"), range(100 * index, 100 * index + frames), gop=4)
        return Path(work, "film.mp4").read_bytes()


def write(folder: Path, version: str, as_json: bool = False, extra_frames: int = 0, embedded: bool = False) -> Path:
    """LeRobot as its library lays it out; frame t of episode e shows the number 100 e + t."""
    top, side = ("observation." + camera.replace("/", ".") for camera in CAMERAS)
    v3 = version == "v3.0"
    video = {"dtype": "video", "shape": [48, 80, 3], "info": {"video.codec": "h264", "video.fps": 20.0}}
    features = {top: video, side: {"dtype": "image", "shape": [48, 80, 3]} if embedded else video,
                **{name: {"dtype": "float32"} for name in ("observation.state", "action", "action.original")}}
    place = "chunk-{chunk_index:03d}/file-{file_index:03d}" if v3 else "episode_{episode_index:06d}"
    info = {
        "codebase_version": version, "total_episodes": len(LENGTHS), "fps": 20, "chunks_size": 2, "features": features,
        "data_path": f"data/{place}.parquet" if v3 else f"data/chunk-{{episode_chunk:03d}}/{place}.parquet",
        "video_path": (f"videos/{{video_key}}/{place}.mp4" if v3
                       else f"videos/chunk-{{episode_chunk:03d}}/{{video_key}}/{place}.mp4"),
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    listed = [{"episode_index": i, "tasks": [TASKS[i % 2]], "length": length} for i, length in enumerate(LENGTHS)]
    tables = [table_of(rows_of(i), as_json) for i in range(len(LENGTHS))]
    if embedded:
        tables = [table.append_column(side, pa.array([{"bytes": png(i, t), "path": None} for t in range(len(table))]))
                  for i, table in enumerate(tables)]
    videos = [top] if embedded else [top, side]
    parts = {}
    for name in videos:
        for i, length in enumerate(LENGTHS):
            parts[name, i] = folder / info["video_path"].format(
                video_key=name, episode_chunk=i // 2, episode_index=i, chunk_index=9, file_index=i)
            parts[name, i].parent.mkdir(parents=True, exist_ok=True)
            parts[name, i].write_bytes(film(i, length + extra_frames))
    if not v3:
        for i, table in enumerate(tables):
            path = folder / info["data_path"].format(episode_chunk=i // 2, episode_index=i)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
        (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
        tasks = ({"task_index": i, "task": task} for i, task in enumerate(TASKS))
        (folder / "meta/tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))
        return folder
    # Data files hold episodes 0 to 2 and 3 to 4, videos 0 to 1 and 2 to 4: the borders lie elsewhere.
    for number, group in enumerate(([0, 1, 2], [3, 4])):
        path = folder / info["data_path"].format(chunk_index=0, file_index=number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables([tables[i] for i in group]), path)
        for i in group:
            listed[i] |= {"data/chunk_index": 0, "data/file_index": number, "stats/action/mean": [0.0]}
    for name in videos:
        for number, group in enumerate(([0, 1], [2, 3, 4])):
            joined = folder / info["video_path"].format(video_key=name, chunk_index=0, file_index=number)
            starts = join_videos([parts[name, i] for i in group], joined)
            for i, start, stop in zip(group, starts[:-1], starts[1:], strict=True):
                listed[i] |= {f"videos/{name}/chunk_index": 0, f"videos/{name}/file_index": number,
                              f"videos/{name}/from_timestamp": start, f"videos/{name}/to_timestamp": stop}
        shutil.rmtree(folder / "videos" / name / "chunk-009")
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(listed), folder / "meta/episodes/chunk-000/file-000.parquet")
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": TASKS})
    pq.write_table(tasks, folder / "meta/tasks.parquet")
    return folder


@pytest.fixture(scope="module", params=VERSIONS)
def shipped(request, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("lerobot") / "drawers", request.param)


@pytest.fixture
def folder(shipped, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(shipped, tmp_path / "drawers"))


@pytest.fixture(scope="module")
def v2(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("v2") / "drawers", "v2.1")


def read(folder: Path | str, cameras: tuple[str, ...] = ("images/top",)) -> list[Episode | Unreadable]:
    source = open_source(str(folder))
    return [one for shard in source.shards for one in source.read(shard, cameras)]


def check(one: Episode | Unreadable, index: int) -> None:
    """An episode is what was written."""
    assert isinstance(one, Episode), one
    rows, length = rows_of(index), LENGTHS[index]
    np.testing.assert_array_equal(one.steps["observation"]["state"], rows["observation.state"])
    np.testing.assert_array_equal(one.steps["action"], rows["action"])
    np.testing.assert_array_equal(one.steps["action.original"], rows["action.original"])
    np.testing.assert_array_equal(one.steps["reward"], rows["next.reward"])
    assert one.steps["language_instruction"] == [TASKS[index % 2]] * length
    first, last = np.arange(length) == 0, np.arange(length) == length - 1
    for name, flag in (("is_first", first), ("is_last", last), ("is_terminal", last)):
        np.testing.assert_array_equal(one.steps[name], flag)
    assert (one.metadata["episode_index"], one.metadata["length"]) == (index, length)


def numbers(frames: np.ndarray) -> list[int]:
    return [number_in(frame) for frame in frames]


def test_what_was_written_is_read(shipped):
    source = open_source(str(shipped))
    assert isinstance(source, LeRobotSource)
    assert source.dataset == "drawers"
    v3 = (shipped / "meta/tasks.parquet").exists()
    assert [shard.num_records for shard in source.shards] == ([3, 2] if v3 else [5])
    assert [shard.first for shard in source.shards] == [0, 3][: len(source.shards)]
    episodes = read(shipped, CAMERAS)
    for index, one in enumerate(episodes):
        check(one, index)
        for camera in ("top", "side"):
            video = one.steps["observation"]["images"][camera]
            assert numbers(video.decode(range(len(video)), None)) == [100 * index + t for t in range(LENGTHS[index])]
        told = {key: one.metadata[key] for key in ("video_fps", "stated_fps", "video_frames", "rows", "stated_codec")}
        count = LENGTHS[index]
        assert told == {"video_fps": pytest.approx(20), "stated_fps": 20, "video_frames": count, "rows": count,
                        "stated_codec": "h264"}


def test_records_are_counted_from_the_unit_on(shipped):
    source = open_source(str(shipped))
    for shard in source.shards:
        assert [one.record for one in source.read(shard, [])] == list(range(shard.num_records))


def test_all_versions_say_the_same_of_an_episode(tmp_path):
    """The same frames have the same digest, alone in a file or among others."""
    found = [read(write(tmp_path / version, version)) for version in VERSIONS]
    for alike in zip(*found, strict=True):
        assert len({one.steps["observation"]["images"]["top"].digest() for one in alike}) == 1
    assert len({one.steps["observation"]["images"]["top"].digest() for one in found[0]}) == len(LENGTHS)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("settings", [{"as_json": True}, {"extra_frames": 1}, {"embedded": True}])
def test_other_ways_to_store_it(tmp_path, version, settings):
    episodes = read(write(tmp_path / "drawers", version, **settings), CAMERAS)
    for index, one in enumerate(episodes):
        check(one, index)
        for camera in ("top", "side"):
            frames = decode_frames(one.steps["observation"]["images"][camera], range(LENGTHS[index]), None)
            assert numbers(frames) == [100 * index + t for t in range(LENGTHS[index])]
        assert one.metadata["video_frames"] - one.metadata["rows"] == settings.get("extra_frames", 0)


def test_images_that_nobody_asked_for_are_not_read(tmp_path):
    one = read(write(tmp_path / "drawers", "v2.1", embedded=True))[0]
    assert list(one.steps["observation"]["images"]) == ["top"]


def test_it_can_be_sent_to_another_process(shipped):
    source = open_source(str(shipped))
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    assert pickle.loads(sent).shards == source.shards


def change_rows(path: Path, change: Callable[[list[dict]], list[dict]]) -> None:
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(path).to_pylist())), path)


def with_value(row: int, column: str, value: object) -> Callable[[list[dict]], list[dict]]:
    return lambda rows: [one | {column: value} if t == row else one for t, one in enumerate(rows)]


def data(folder: Path) -> Path:
    """Of episode 1."""
    return folder / "data/chunk-000/episode_000001.parquet"


def video(folder: Path) -> Path:
    return folder / "videos/chunk-000/observation.images.top/episode_000001.mp4"


def relist(folder: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = folder / "meta/episodes.jsonl"
    path.write_text("\n".join(change(path.read_text().splitlines())))


FAULTS = {
    "data missing": (lambda f: data(f).unlink(), r"episode_000001.parquet is missing"),
    "data cut off": (lambda f: data(f).write_bytes(data(f).read_bytes()[:900]), r"000001.parquet cannot be read"),
    "data garbled": (lambda f: data(f).write_bytes(bytes(3000)), r"000001.parquet cannot be read"),
    "data a folder": (lambda f: (data(f).unlink(), data(f).mkdir()), r"000001.parquet cannot be read"),
    "video missing": (lambda f: video(f).unlink(), r"episode_000001.mp4 is missing"),
    "video cut off": (lambda f: video(f).write_bytes(video(f).read_bytes()[:500]), r"000001.mp4 is damaged"),
    "video a pointer": (lambda f: video(f).write_text("version https://git-lfs.github.com"), r"damaged, or no video"),
    "video too short": (lambda f: write_video(video(f), range(11)), r"1.mp4 has 11 frames for 12 rows"),
    "row missing": (lambda f: change_rows(data(f), lambda rows: rows[1:]), r"11 rows, the table of episodes says 12"),
    "row twice": (lambda f: change_rows(data(f), lambda rows: rows + rows[-1:]), r"13 rows, the table of episodes"),
    "rows swapped": (lambda f: change_rows(data(f), lambda rows: rows[::-1]), r"frame_index does not count from 0"),
    "another's rows": (lambda f: shutil.copy(data(f).with_name("episode_000000.parquet"), data(f)), r"1: 0 rows"),
    "value missing": (lambda f: change_rows(data(f), with_value(4, "action", None)), r"column action: row 4 is empty"),
    "ragged": (lambda f: change_rows(data(f), with_value(4, "action", [1.0])), r"column action: "),
    "text for numbers": (lambda f: change_rows(data(f), lambda rows: [one | {"action": "fast"} for one in rows]),
                         r"column action: Expecting value"),
    "names for numbers": (lambda f: change_rows(data(f), lambda rows: [one | {"action": ["a"]} for one in rows]),
                          r"column action: it holds something else than numbers"),
    "no episode_index": (lambda f: change_rows(data(f), lambda rows: [{"action": [1.0]}] * 12), "episode_index"),
    "longer than listed": (lambda f: relist(f, lambda rows: [rows[0], rows[1].replace("12", "13"), *rows[2:]]),
                           r"12 rows, the table of episodes says 13"),
    "not listed": (lambda f: relist(f, lambda rows: [rows[0], *rows[2:]]), r"episodes 1 to 1 are not in the table"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_an_episode_is_told_and_the_others_are_read(v2, tmp_path, fault):
    folder = Path(shutil.copytree(v2, tmp_path / "drawers"))
    do, reason = FAULTS[fault]
    do(folder)
    found = read(folder)
    assert len(found) == len(LENGTHS)
    assert isinstance(found[1], Unreadable)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found[1].reason)
    for index in (0, 2, 3, 4):
        check(found[index], index)


def test_single_numbers_may_be_lists_of_one(v2, tmp_path):
    folder = Path(shutil.copytree(v2, tmp_path / "drawers"))
    single = ("task_index", "frame_index", "next.done")
    change_rows(data(folder), lambda rows: [one | {name: [one[name]] for name in single} for one in rows])
    check(read(folder)[1], 1)


def test_an_episode_that_is_listed_twice_is_read_once(v2, tmp_path):
    folder = Path(shutil.copytree(v2, tmp_path / "drawers"))
    relist(folder, lambda rows: [*rows, rows[1]])
    found = read(folder)
    reasons = [one.reason for one in found if isinstance(one, Unreadable)]
    assert reasons == ["episode 1 is twice in the table of episodes"]
    assert [one.metadata["episode_index"] for one in found if isinstance(one, Episode)] == [0, 1, 2, 3, 4]


def test_a_gap_is_counted_by_its_episodes(v2, tmp_path):
    folder = Path(shutil.copytree(v2, tmp_path / "drawers"))
    relist(folder, lambda rows: rows[:2])
    (gap,) = read(folder)[2:]
    assert (gap.reason, gap.num_records) == ("episodes 2 to 4 are not in the table of episodes", 3)
    assert sum(shard.num_records for shard in open_source(str(folder)).shards) == 5


def test_a_data_file_of_several_episodes_that_is_gone_costs_those_alone(tmp_path):
    folder = write(tmp_path / "drawers", "v3.0")
    (folder / "data/chunk-000/file-000.parquet").unlink()
    found = read(folder)
    assert [one.record for one in found] == [0, 1, 2, 0, 1]
    assert all("file-000.parquet is missing" in one.reason for one in found[:3])
    for index in (3, 4):
        check(found[index], index)


def test_a_video_of_several_episodes_that_stops_early_costs_its_end(tmp_path):
    folder = write(tmp_path / "drawers", "v3.0")
    joined = folder / "videos/observation.images.top/chunk-000/file-001.mp4"
    write_video(joined, [*range(200, 205), *range(300, 309), *range(400, 404)], gop=4)
    found = read(folder)
    for index in (0, 1, 2, 3):
        check(found[index], index)
    assert "has 4 frames for 8 rows" in found[4].reason


@pytest.mark.parametrize(("name", "content", "says"), [
    ("meta/info.json", '{"codebase_version": "v1.6"}', "LeRobot v1.6"),
    ("meta/info.json", "{", "not valid JSON"),
    ("meta/info.json", '{"codebase_version": "v2.1", "total_episodes": 5}', "not those of LeRobot"),
    ("meta/episodes.jsonl", None, "meta/episodes.jsonl"),
    ("meta/episodes.jsonl", "[1]\n", "not those of LeRobot"),
    ("meta/episodes.jsonl", '{"length": 3}\n', "not those of LeRobot"),
    ("meta/tasks.jsonl", None, "meta/tasks.jsonl"),
    ("meta/tasks.jsonl", '{"task_index": 0}\n', "not those of LeRobot"),
    ("meta/tasks.jsonl", "{", "meta/tasks.jsonl"),
])
def test_a_table_that_is_wrong_is_named(v2, tmp_path, name, content, says):
    folder = Path(shutil.copytree(v2, tmp_path / "drawers"))
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    with pytest.raises(UserError, match=says):
        open_source(str(folder))


def test_a_camera_that_is_not_there(shipped):
    with pytest.raises(UserError, match=r"no camera 'top'\n.*images/top, images/side"):
        read(shipped, ("top",))


def test_tables_may_be_anywhere_but_videos_must_be_here(shipped):
    import fsspec

    address = f"memory://{shipped.parent.name}/drawers"
    for path in shipped.rglob("*"):
        if path.is_file():
            fsspec.filesystem("memory").pipe(f"{address}/{path.relative_to(shipped)}", path.read_bytes())
    for index, one in enumerate(read(address, ())):
        check(one, index)
    with pytest.raises(UserError, match="not on this machine"):
        read(address)


def test_damage_anywhere_is_told(folder):
    """A bit that turns in a data file, or in a table, ends in a reason or changes values; it never ends the reading."""
    path = sorted((folder / "data").rglob("*.parquet"))[0]
    whole = path.read_bytes()
    reasons = 0
    for seed in range(150):
        place = int(np.random.default_rng(seed).integers(0, len(whole)))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << seed % 8]) + whole[place + 1 :])
        found = read(folder, ())
        assert len(found) == len(LENGTHS)
        reasons += any(isinstance(one, Unreadable) for one in found)
    assert reasons


@pytest.mark.parametrize("change", [{"data_path": "data/{name}.parquet"}, {"video_path": None}, {"chunks_size": 0},
                                    {"features": {"observation.images.top": {}}}, {"total_episodes": "many"}])
def test_an_info_that_is_wrong_is_named(v2, tmp_path, change):
    folder = Path(shutil.copytree(v2, tmp_path / "drawers"))
    info = json.loads((folder / "meta/info.json").read_text()) | change
    (folder / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="not those of LeRobot"):
        open_source(str(folder))
