"""Random access to the clips of one split of a folder: one `pread` a clip, checked against its checksum.

The indices are held in memory (84 bytes a clip, one copy for all forked workers): mapped files would stay open, and
there are thousands. Shards are read, not mapped: a `pread` of 14 KB takes 2.0 microseconds, copying them from a map
1.3; a file that is cut off is an error in place of a SIGBUS, and a network filesystem is asked once for just the clip.
"""

import os
import zlib
from pathlib import Path

import numpy as np

from whale.actions import ACTION_DIM
from whale.clips.clip import Clip
from whale.clips.codec import decode, from_tar, read_film_strip
from whale.clips.index import FACTS_BYTES, INDEX_DTYPE, REMEDY, key_name, read_index
from whale.clips.manifest import SPLITS, Manifest, ShardInfo, read_manifest
from whale.clips.open_files import OpenFiles
from whale.clips.window import Windows
from whale.errors import UserError

_COLUMNS = ("offset", "length", "head", "num_frames", "actions_at", "flags_at", "rewards_at", "body_at", "body_bytes")


class ClipReader:
    """Clips 0 to len - 1 of a split, in the order of the manifest.

    Safe to use in forked and in spawned workers: reads keep no file position, and a copy sent to another process opens
    its own files.

    `manifest` is given only while a folder is written, before its manifest is published; `files` where several readers
    of a process are to share the bound on open files.

    Raises:
        UserError: the folder is no complete folder of clips, has no such split, or a shard is missing or cut off.
    """

    def __init__(
        self, folder: Path | str, split: str, manifest: Manifest | None = None, files: OpenFiles | None = None
    ):
        self.folder, self.split = Path(folder), split
        self.manifest = manifest or read_manifest(self.folder)
        self.files = OpenFiles() if files is None else files
        self.shards = self.manifest.of_split(split)
        if not self.shards:
            raise UserError(f"{self.folder} has no clips in the split {split!r}", f"choose one of {', '.join(SPLITS)}")
        self._check_sizes()
        parts = [self._read_index(shard).tobytes() for shard in self.shards]
        self.index = np.frombuffer(b"".join(parts), INDEX_DTYPE)
        self._ends = np.cumsum([shard.num_clips for shard in self.shards])
        self._paths = [str(self.folder / shard.name) for shard in self.shards]
        self._buffer = bytearray()

    def _check_sizes(self) -> None:
        """All shards that are missing or of another size, in one error."""
        wrong = []
        for shard in self.shards:
            path = self.folder / shard.name
            size = path.stat().st_size if path.is_file() else None
            if size != shard.num_bytes:
                wrong.append(f"{path} is missing" if size is None else
                             f"{path} has {size} bytes, the manifest says {shard.num_bytes}")
        if wrong:
            raise UserError("; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
                            "copy these shards again, or run the task that wrote the folder again")

    def _read_index(self, shard: ShardInfo) -> np.ndarray:
        index = read_index(self.folder / shard.name)
        if len(index) != shard.num_clips:
            raise UserError(f"the index of {shard.name} has {len(index)} clips, the manifest says {shard.num_clips}",
                            "run the task that wrote the folder again")
        return index

    def __len__(self) -> int:
        return len(self.index)

    @property
    def num_frames(self) -> np.ndarray:
        """T of every clip, uint32 [len], from the index alone."""
        return self.index["num_frames"]

    def locate(self, k: int) -> tuple[int, int]:
        """Shard number and row of clip k."""
        if not 0 <= k < len(self):
            raise IndexError(f"clip {k} of {len(self)}")
        shard = int(np.searchsorted(self._ends, k, side="right"))
        return shard, k - (int(self._ends[shard - 1]) if shard else 0)

    def key(self, k: int) -> int:
        """The number that is clip k's key."""
        self.locate(k)
        return int(self.index["key"][k])

    def of_shard(self, shard: int) -> range:
        """The clips in one of `shards`."""
        return range(int(self._ends[shard]) - self.shards[shard].num_clips, int(self._ends[shard]))

    def _damaged(self, k: int, why: object) -> UserError:
        where = f"clip {key_name(self.key(k))} in {self._paths[self.locate(k)[0]]} at byte {self.index['offset'][k]}"
        return UserError(f"{where} is damaged: {why}", REMEDY)

    def _raw(self, k: int, shard: int, offset: int, length: int, head: int, facts: bytes, whole: bool) -> memoryview:
        """The bytes of clip k, or of its head, valid until the next call; `facts` is its row without the checksums.

        Raises:
            UserError: they are not the bytes that were written.
        """
        info = self.shards[shard]
        if not head <= length <= info.num_bytes - offset:
            raise self._damaged(k, f"the index says {length} bytes, {head} of them its head")
        wanted = length if whole else head
        if len(self._buffer) < wanted:
            self._buffer = bytearray(2 * wanted)
        raw = memoryview(self._buffer)[:wanted]
        try:
            count = os.preadv(self.files.descriptor(self._paths[shard]), [raw], offset)
        except OSError as error:
            raise self._damaged(k, error) from None
        head_crc32, crc32 = self.index["head_crc32"][k], self.index["crc32"][k]
        found = zlib.crc32(raw[:head], zlib.crc32(facts))
        if count != wanted or found != head_crc32 or (whole and zlib.crc32(raw[head:], found) != crc32):
            raise self._damaged(k, "its checksum is not the one in the index")
        return raw

    def read(self, k: int, with_frames: bool = True) -> Clip:
        """Clip k; with `with_frames` False its frames or tokens are not even fetched (see `codec.decode`).

        Raises:
            UserError: the bytes in the shard are not that clip.
        """
        shard, row = self.locate(k)[0], self.index[k]
        offset, length, head = (int(row[name]) for name in ("offset", "length", "head"))
        raw = self._raw(k, shard, offset, length, head, row.tobytes()[:FACTS_BYTES], with_frames)
        try:
            return decode(from_tar(bytes(raw))[1], with_frames)
        except ValueError as error:
            raise self._damaged(k, error) from None

    def fill(self, windows: Windows, slots: np.ndarray, ks: np.ndarray) -> None:
        """Read the windows `slots` of clips `ks` (int arrays [N]), each from `windows.starts[slot]` on.

        Raises:
            UserError: a clip is damaged, holds a number that is not finite, or its frames are of another size.
        """
        rows = windows.rows[slots] = self.index[ks]
        facts, row_bytes = rows.tobytes(), INDEX_DTYPE.itemsize
        length, body = windows.actions.shape[1], windows.body
        windows.num_steps[slots] = np.minimum(length, rows["num_frames"] - windows.starts[slots])
        frame_bytes = 0 if body is None else body[0, 0].nbytes
        actions, flags, rewards = (a.data.cast("B") for a in (windows.actions, windows.flags, windows.rewards))
        tokens = body.data.cast("B") if body is not None and body.dtype == np.uint16 else None
        shards = np.searchsorted(self._ends, ks, side="right")
        columns = [column.tolist() for column in (slots, ks, windows.starts[slots], shards)]
        columns += [rows[name].tolist() for name in _COLUMNS]
        for i, (slot, k, start, shard, offset, size, head, steps, actions_at, flags_at, rewards_at, body_at,
                body_bytes) in enumerate(zip(*columns, strict=True)):  # fmt: skip
            own = facts[i * row_bytes : i * row_bytes + FACTS_BYTES]
            raw = self._raw(k, shard, offset, size, head, own, body is not None)
            first, count = slot * length, min(length, steps - start)
            numbers = ((actions, 4 * ACTION_DIM, actions_at), (flags, 4, flags_at), (rewards, 4, rewards_at))
            for out, step_bytes, at in numbers:
                if at:
                    begin = at + start * step_bytes
                    out[first * step_bytes : (first + count) * step_bytes] = raw[begin : begin + count * step_bytes]
            if tokens is not None and body_bytes == steps * frame_bytes:
                begin = body_at + start * frame_bytes
                tokens[first * frame_bytes : (first + count) * frame_bytes] = raw[begin : begin + count * frame_bytes]
            elif body is not None:
                frames = self._frames(k, raw[body_at : body_at + body_bytes], steps, body)
                body[slot, :count] = frames[start : start + count]
            if body is not None and count < length:
                body[slot, count:] = 0
        finite = np.isfinite(windows.actions[slots]).all((1, 2)) & np.isfinite(windows.rewards[slots]).all(1)
        if not finite.all():
            raise self._damaged(int(ks[finite.argmin()]), "an action or a reward is not a finite number")

    def _frames(self, k: int, content: memoryview, steps: int, body: np.ndarray) -> np.ndarray:
        try:
            frames = read_film_strip(bytes(content), steps) if body.dtype == np.uint8 else None
        except (ValueError, OSError) as error:
            raise self._damaged(k, error) from None
        if frames is None or frames.shape[1:] != body.shape[2:]:
            found = f"{len(content)} bytes of tokens" if frames is None else f"frames {frames.shape[1:]}"
            where = f"clip {key_name(self.key(k))} of {self.folder}"
            raise UserError(f"{where} has {found}, others {body.shape[2:]} a frame", "convert the dataset to one size")
        return frames

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "split": self.split, "manifest": self.manifest, "files": self.files}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)  # type: ignore[misc]
