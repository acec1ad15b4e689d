"""LeRobot folders as a source: v2.0 and v2.1 (a data file an episode), v3.0 (several episodes a file).

Columns become features by their dotted names: `observation.images.top` is the camera `images/top` of `observation`;
where a name continues that of another column (`action` and `action.original`), the rest keeps its dots. `next.reward`
is the reward, `language_instruction` the text of the task; the last row is terminal where its `next.done` is set. Row t
shows frame t of its episode, whatever its time stamp: time may start anywhere, and a video may go on behind the last
row. The splits of info.json are not used: all is `train`.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from whale.data_prep.files import find_files, is_local, join, name_of, open_file, read_json
from whale.data_prep.source import Episode, InputShard, Unreadable, flags
from whale.data_prep.video import episode_frames
from whale.errors import UserError

EPISODES_A_UNIT = 16
"""Single-episode files that are one unit of work."""


@dataclass(frozen=True)
class _Listed:
    """An episode as the table of episodes lists it; or a gap in that table."""

    index: int
    length: int
    data: str
    """Its data file, in the folder."""
    row: dict[str, Any]
    problem: str | None = None
    num_records: int = 1


def _read_table(address: str, without: Sequence[str] = ()) -> Any:
    """A Parquet file without some columns; a ValueError when it cannot be read."""
    import pyarrow.parquet

    try:
        with open_file(address) as file:
            parquet = pyarrow.parquet.ParquetFile(file)
            names = [name for name in parquet.schema_arrow.names if name not in without]
            return parquet.read([name for name in names if not name.startswith("stats/")], use_threads=False)
    except FileNotFoundError:
        raise ValueError(f"{address} is missing") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{address} cannot be read: {error}") from None


def _rows(address: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a table of the folder, which is JSON lines, or Parquet in some files."""
    try:
        if names[0].endswith(".parquet"):
            return [row for name in names for row in _read_table(join(address, name)).to_pylist()]
        with open_file(join(address, names[0])) as file:
            return [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{address} is incomplete or damaged: {names[0]}: {error}", "fetch the dataset again") from None


def _path(name: str, columns: Iterable[str]) -> str:
    """The place of a column among the features."""
    before = next((name[:i] for i, letter in enumerate(name) if letter == "." and name[:i] in columns), name)
    return before.replace(".", "/") + name[len(before) :]


def _values(column: Any, is_number: bool) -> Any:
    """A column of an episode: an array with leading [T], or a list of encoded images or of texts; else a ValueError."""
    values = column.to_pylist()
    if None in values:
        raise ValueError(f"row {values.index(None)} is empty")
    if all(isinstance(one, dict) and isinstance(one.get("bytes"), bytes) for one in values):
        return [one["bytes"] for one in values]
    if isinstance(values[0], str):
        if not is_number:
            return values
        values = [json.loads(one) for one in values]  # declared as numbers, stored as JSON
    array = np.array(values)  # a ValueError when rows differ in size
    if array.dtype.kind not in "biuf":
        raise ValueError("it holds something else than numbers, images or texts")
    return array


class LeRobotSource:
    """A LeRobot folder. Its tables may be anywhere, its videos must be local.

    Raises:
        UserError: a table of the folder is missing or malformed, or its version is another.
    """

    def __init__(self, address: str):
        self.address, self.dataset = address, name_of(address)
        self._info = read_json(join(address, "meta", "info.json"))
        version = str(self._info.get("codebase_version"))
        if not version.startswith(("v2.", "v3.")):
            raise UserError(f"{address} is LeRobot {version}", "convert it to v2.1 or v3.0 with lerobot")
        sizes = {path: found.num_bytes for path, found in find_files(address).items()}
        self._v3 = version.startswith("v3.")
        tables = [path for path in sizes if path.startswith("meta/episodes/")] or ["meta/episodes.parquet"]
        try:
            listed = list(self._list(_rows(address, tables if self._v3 else ["meta/episodes.jsonl"])))
            tasks = _rows(address, ["meta/tasks.parquet" if self._v3 else "meta/tasks.jsonl"])
            # The one text of each row: its column goes by several names.
            self._tasks = {row["task_index"]: next(v for v in row.values() if isinstance(v, str)) for row in tasks}
            self._features = self._info["features"]
            images = [name for name in self._features if self._features[name]["dtype"] in ("video", "image")]
            self._cameras = {_path(name, self._features).removeprefix("observation/"): name for name in images}
            places = range(0, len(listed), EPISODES_A_UNIT)
            self._units = ([list(group) for _, group in groupby(listed, key=lambda one: one.data)] if self._v3
                           else [listed[i : i + EPISODES_A_UNIT] for i in places])
            self.shards = tuple(self._shards(images, sizes))
        except (LookupError, TypeError, ValueError, ArithmeticError, StopIteration, AttributeError) as error:
            problem = f"the tables in {address}/meta are not those of LeRobot {version}: {error!r}"
            raise UserError(problem, "fetch the dataset again") from None
    def _shards(self, images: list[str], sizes: dict[str, int]) -> Iterator[InputShard]:
        first = 0
        for number, unit in enumerate(self._units):
            files = {path for one in unit for path in (one.data, *(self._video(one, name) for name in images))}
            count, num_bytes = sum(one.num_records for one in unit), sum(sizes.get(path, 0) for path in files)
            yield InputShard(number, join(self.address, unit[0].data), "train", first, count, num_bytes)
            first += count

    def __reduce__(self) -> Any:
        return _reopened, (self.address,)  # a worker reads the tables once, instead of being sent them for every unit

    def _list(self, rows: list[dict[str, Any]]) -> Iterator[_Listed]:
        """All episodes, by index, and the gaps between them."""
        expected, data, table = 0, "", "in the table of episodes"
        for row in [*sorted(rows, key=lambda row: int(row["episode_index"])), None]:
            index = int(self._info["total_episodes"] if row is None else row["episode_index"])
            if index > expected:
                gap = f"episodes {expected} to {index - 1} are not {table}"
                yield _Listed(expected, 0, data, {}, gap, index - expected)
            if row is not None:
                data = self._file(self._info["data_path"], row, "data")
                twice = f"episode {index} is twice {table}" if index < expected else None
                yield _Listed(index, int(row["length"]), data, row, twice)
                expected = index + 1

    def _file(self, template: str, row: dict[str, Any], kind: str, **names: str) -> str:
        index = int(row["episode_index"])
        return template.format(
            episode_index=index, episode_chunk=index // self._info.get("chunks_size", 1000),
            chunk_index=row.get(f"{kind}/chunk_index"), file_index=row.get(f"{kind}/file_index"), **names)

    def _video(self, one: _Listed, name: str) -> str:
        """The video of a camera, in the folder; empty where its images are in the data file."""
        if not one.row or self._features[name]["dtype"] == "image":
            return ""
        return self._file(self._info["video_path"], one.row, f"videos/{name}", video_key=name)

    def read(self, shard: InputShard, cameras: Sequence[str]) -> Iterator[Episode | Unreadable]:
        """The episodes of a unit in order; `metadata` has what their rows in the table of episodes say.

        With a video, it also has `video_fps`, `video_codec`, `video_frames`, and `stated_fps`, `stated_codec`, `rows`.

        Raises:
            UserError: a camera does not exist, or is a video at an address that is not local.
        """
        for camera in cameras:
            if camera not in self._cameras:
                known = ", ".join(self._cameras)
                raise UserError(f"{self.address} has no camera {camera!r}", f"choose one of: {known}")
            if self._features[self._cameras[camera]]["dtype"] == "video" and not is_local(self.address):
                raise UserError(f"the videos of {self.address} are not on this machine", "copy the folder here first")
        unwanted = [name for camera, name in self._cameras.items() if camera not in cameras]
        record = 0
        for data, group in groupby(self._units[shard.unit], key=lambda one: one.data):
            table = None
            for one in group:
                try:
                    if one.problem:
                        raise ValueError(one.problem)
                    table = table or _read_table(join(self.address, data), unwanted)
                    yield self._episode(record, one, table, cameras)
                except (KeyError, TypeError, ValueError) as error:
                    yield Unreadable(record, None, str(error), one.num_records)
                record += one.num_records

    def _episode(self, record: int, one: _Listed, table: Any, cameras: Sequence[str]) -> Episode:
        own, where = np.flatnonzero(np.asarray(table["episode_index"]) == one.index), f"{one.data}, episode {one.index}"
        if len(own) != one.length or not len(own) or own[-1] - own[0] != len(own) - 1:
            raise ValueError(f"{where}: {len(own)} rows, the table of episodes says {one.length}, one after the other")
        part = table.slice(own[0], len(own))
        steps: dict[str, Any] = {"observation": {}, **flags(len(own))}
        for name in part.column_names:
            try:
                is_number = self._features.get(name, {}).get("dtype", "string") != "string"
                _put(steps, _path(name, part.column_names), _values(part[name], is_number))
            except ValueError as error:
                raise ValueError(f"{where}, column {name}: {error}") from None
        if not np.array_equal(np.ravel(steps.get("frame_index", own - own[0])), own - own[0]):
            raise ValueError(f"{where}: frame_index does not count from 0 to {len(own) - 1}")
        following = steps.get("next", {})
        if "reward" in following:
            steps["reward"] = following["reward"]
        if "done" in following:
            steps["is_terminal"][-1] = np.ravel(following["done"])[-1]
        if "task_index" in steps:
            steps["language_instruction"] = [self._tasks.get(int(task), "") for task in np.ravel(steps["task_index"])]
        told = {key: value for key, value in one.row.items() if isinstance(value, str | int | float) and "/" not in key}
        videos = []
        for name in (self._cameras[camera] for camera in cameras):
            if video := self._video(one, name):
                span = [one.row[f"videos/{name}/{end}_timestamp"] for end in ("from", "to")] if self._v3 else []
                frames, facts = episode_frames(join(self.address, video), len(own), *span)
                _put(steps, _path(name, self._features), frames)
                info = self._features[name].get("info") or self._features[name].get("video_info") or {}
                stated = {"stated_fps": self._info.get("fps"), "stated_codec": info.get("video.codec")}
                videos.append(facts | {key: value for key, value in stated.items() if value is not None})
        return Episode(record, steps, told | max(videos, key=lambda one: one["video_frames"], default={}))


def _put(steps: dict[str, Any], path: str, value: Any) -> None:
    *folders, name = path.split("/")
    for folder in folders:
        steps = steps.setdefault(folder, {})
    steps[name] = value


@functools.lru_cache(maxsize=1)
def _reopened(address: str) -> LeRobotSource:
    return LeRobotSource(address)
