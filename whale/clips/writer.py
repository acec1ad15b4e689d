"""Streams clips into shards: tar, member index and record appear under their names only once whole.

What is written depends on the clips and the limits alone, so the bytes are the same for any number of workers and any
restart.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO

from whale.clips.clip import Clip
from whale.clips.codec import END_OF_TAR, encode, to_tar
from whale.clips.index import index_bytes, index_path, key_name, make_row
from whale.clips.manifest import ShardInfo
from whale.publish import publish_file, temporary_name

CLIPS_PER_UNIT = 10**6
MAX_SHARD_BYTES = 1 << 30
MAX_SHARD_CLIPS = 10_000


class Shard:
    """One tar being written under its temporary name, until `finish` and `publish`, or `discard`."""

    def __init__(self, path: Path, split: str):
        self.path, self.split = path, split
        self.rows: list[tuple] = []
        self.num_bytes = self.num_frames = 0
        self._sha256 = hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = temporary_name(path).open("wb")

    def _write(self, raw: bytes) -> None:
        self._file.write(raw)
        self._sha256.update(raw)
        self.num_bytes += len(raw)

    def add(self, key: int, clip: Clip) -> None:
        """Append a clip."""
        raw = to_tar(key_name(key), encode(clip))
        self.rows.append(make_row(self.num_bytes, key, raw, clip))
        self.num_frames += clip.num_frames
        self._write(raw)

    def finish(self) -> ShardInfo:
        """End the tar; it keeps its temporary name."""
        self._write(END_OF_TAR)
        self._file.close()
        return ShardInfo(self.path.name, self.split, self._sha256.hexdigest(), self.num_bytes, len(self.rows),
                         self.num_frames, hashlib.sha256(index_bytes(self.rows)).hexdigest())

    def publish(self) -> None:
        """Give the finished tar its name, and then its index."""
        with publish_file(self.path):
            pass  # written under the temporary name already
        with publish_file(index_path(self.path)) as temporary:
            temporary.write_bytes(index_bytes(self.rows))

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        temporary_name(self.path).unlink(missing_ok=True)


class ShardWriter:
    """Writes the clips of one input shard, each to its split's tars `<split>-<unit>-<part>.tar`.

    A context manager: all shards are published when it is left in good order, none when it is left by an exception.
    `shards` then lists them.
    """

    def __init__(self, folder: Path, unit: int, max_bytes: int = MAX_SHARD_BYTES, max_clips: int = MAX_SHARD_CLIPS):
        self.folder, self.unit = folder, unit
        self.max_bytes, self.max_clips = max_bytes, max_clips
        self.shards: tuple[ShardInfo, ...] = ()
        self._num_clips = 0
        self._open: dict[str, Shard] = {}
        self._all: list[Shard] = []

    def write(self, clip: Clip) -> int:
        """Append a clip and return its key: the input shard's number and the clip's count in it."""
        split = clip.info.split
        if self._num_clips == CLIPS_PER_UNIT:
            raise ValueError(f"input shard {self.unit} gives more than {CLIPS_PER_UNIT} clips")
        shard = self._open.get(split)
        if shard is None or shard.num_bytes >= self.max_bytes or len(shard.rows) >= self.max_clips:
            part = sum(other.split == split for other in self._all)
            shard = self._open[split] = Shard(self.folder / f"{split}-{self.unit:05d}-{part:03d}.tar", split)
            self._all.append(shard)
        key = self.unit * CLIPS_PER_UNIT + self._num_clips
        shard.add(key, clip)
        self._num_clips += 1
        return key

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for shard in self._all:
                shard.discard()
            return
        self.shards = tuple(shard.finish() for shard in self._all)
        for shard in self._all:
            shard.publish()
