"""Checks a folder of clips from its bytes up: hashes, tar structure, index, every clip, every count."""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np

from whale.clips.codec import END_OF_TAR, decode
from whale.clips.index import key_name, open_index, read_raw
from whale.clips.manifest import ShardInfo, read_manifest
from whale.clips.reader import ClipReader
from whale.data_prep.config import VerifyConfig
from whale.errors import UserError
from whale.progress import Progress

MAX_SHOWN = 10


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_clips(path: Path, shard: ShardInfo, tokenizer: str | None) -> list[str]:
    """Damage of single clips: what the index says, what the tar holds, and what the clip says of itself."""
    index = open_index(path)
    damage = []
    ends = index["offset"] + index["length"]
    if index["offset"][0] != 0 or (index["offset"][1:] != ends[:-1]).any():
        damage.append(f"{path.name}: the index does not cover the shard without gaps")
    if len(index) != shard.num_clips or int(index["num_frames"].sum()) != shard.num_frames:
        damage.append(f"{path.name}: the index counts {len(index)} clips and {int(index['num_frames'].sum())} frames, "
                      f"the manifest {shard.num_clips} and {shard.num_frames}")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for row in index:
            where = f"{path.name}: clip {key_name(int(row['key']))} at byte {int(row['offset'])}"
            try:
                clip = decode(read_raw(descriptor, row)[1])
            except (ValueError, KeyError, OSError) as error:
                damage.append(f"{where}: {error}")
                continue
            found = (clip.num_frames, clip.info.split, clip.info.tokenizer)
            if found != (int(row["num_frames"]), shard.split, tokenizer):
                damage.append(f"{where}: frames, split and tokenizer are {found}")
        if os.pread(descriptor, len(END_OF_TAR) + 1, int(ends[-1])) != END_OF_TAR:
            damage.append(f"{path.name}: the end of the tar at byte {int(ends[-1])} is damaged")
    finally:
        os.close(descriptor)
    return damage


def verify(config: VerifyConfig) -> None:
    """Read everything in a folder of clips.

    Raises:
        UserError: names shard, clip and byte of the damage found.
    """
    manifest = read_manifest(config.clips)
    for split in sorted({shard.split for shard in manifest.shards}):
        ClipReader(config.clips, split)  # names missing and truncated shards all at once
    progress = Progress("verify", sum(shard.num_bytes for shard in manifest.shards), "bytes")
    damage: list[str] = []
    keys: list[np.ndarray] = []
    for shard in manifest.shards:
        path = config.clips / shard.name
        found = _check_clips(path, shard, manifest.tokenizer)
        if not found and _sha256(path) != shard.sha256:
            found = [f"{path.name}: the SHA-256 is not the one in the manifest, though every clip can be read"]
        damage += found
        keys.append(open_index(path)["key"])
        progress.advance(shard.num_bytes, shard.name)
    progress.close()
    if len(np.unique(np.concatenate(keys))) != sum(map(len, keys)):
        damage.append("the same clip key occurs twice")
    if damage:
        lines = "\n".join(f"  - {line}" for line in damage[:MAX_SHOWN])
        more = f"\n  and {len(damage) - MAX_SHOWN} more" if len(damage) > MAX_SHOWN else ""
        problem = f"{config.clips} is damaged in {len(damage)} place(s):\n{lines}{more}"
        raise UserError(problem, "remove the shards named above and run the task that wrote them again")
    total = sum(shard.num_clips for shard in manifest.shards)
    sys.stdout.write(f"{config.clips}: {len(manifest.shards)} shards, {total} clips, all as written\n")
