"""Random access to the clips of one split of a folder."""

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np

from whale.clips.clip import Clip
from whale.clips.codec import decode
from whale.clips.index import open_index, read_raw
from whale.clips.manifest import SPLITS, Manifest, read_manifest
from whale.errors import UserError

_MAX_OPEN_FILES = 128


class ClipReader:
    """Clips 0 to len - 1 of a split, in the order of the manifest.

    Safe to use in forked and in spawned workers: reads keep no file position, and a copy sent to another process opens
    its own files.

    `manifest` is given only while a folder is written, before its manifest is published.

    Raises:
        UserError: the folder is no complete folder of clips, has no such split, or a shard is missing or cut off.
    """

    def __init__(self, folder: Path | str, split: str, manifest: Manifest | None = None):
        self.folder, self.split = Path(folder), split
        self.manifest = manifest or read_manifest(self.folder)
        self.shards = self.manifest.of_split(split)
        if not self.shards:
            raise UserError(f"{self.folder} has no clips in the split {split!r}", f"choose one of {', '.join(SPLITS)}")
        self._check_shards()
        self._indices = [open_index(self.folder / shard.name) for shard in self.shards]
        self._ends = np.cumsum([shard.num_clips for shard in self.shards])
        self._files: OrderedDict[int, int] = OrderedDict()

    def _check_shards(self) -> None:
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
        for shard in self.shards:
            rows = len(open_index(self.folder / shard.name))
            if rows != shard.num_clips:
                raise UserError(f"the index of {shard.name} has {rows} clips, the manifest says {shard.num_clips}",
                                "run the task that wrote the folder again")

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def num_frames(self) -> np.ndarray:
        """T of every clip, uint32 [len], from the index alone."""
        return np.concatenate([index["num_frames"] for index in self._indices])

    def locate(self, k: int) -> tuple[int, int]:
        """Shard number and row of clip k."""
        if not 0 <= k < len(self):
            raise IndexError(f"clip {k} of {len(self)}")
        shard = int(np.searchsorted(self._ends, k, side="right"))
        return shard, k - (int(self._ends[shard - 1]) if shard else 0)

    def key(self, k: int) -> int:
        """The number that is clip k's key."""
        shard, row = self.locate(k)
        return int(self._indices[shard]["key"][row])

    def of_shard(self, shard: int) -> range:
        """The clips in one of `shards`."""
        return range(int(self._ends[shard]) - self.shards[shard].num_clips, int(self._ends[shard]))

    def _descriptor(self, shard: int) -> int:
        if shard not in self._files:
            if len(self._files) == _MAX_OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(self.folder / self.shards[shard].name, os.O_RDONLY | os.O_CLOEXEC)
        return self._files[shard]

    def read(self, k: int, with_frames: bool = True) -> Clip:
        """Clip k; with `with_frames` False the frames of a pixel clip are left undecoded (see `codec.decode`).

        Raises:
            UserError: the bytes in the shard are not that clip.
        """
        shard, row = self.locate(k)
        entry = self._indices[shard][row]
        try:
            return decode(read_raw(self._descriptor(shard), entry)[1], with_frames)
        except (ValueError, KeyError, OSError) as error:
            where = f"clip {k} in {self.folder / self.shards[shard].name} at byte {entry['offset']}"
            problem = f"{where} is damaged: {error}"
            raise UserError(problem, "run `whale data_prep verify`, then the task that wrote the folder") from None

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "split": self.split, "manifest": self.manifest}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)
