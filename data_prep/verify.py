"""Checks a folder of clips from its bytes up: hashes, tar structure, index, every clip, every count, every text.

Nothing is extracted and no pixel is decoded: what a hostile archive could do with a link, a path or a size, it cannot
do to a program that compares every header with the only one that this format has (whale/clips/codec.py).
"""

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whale.clips.codec import END_OF_TAR, decode, from_tar
from whale.clips.index import INDEX_DTYPE, index_path, key_name, make_row
from whale.clips.manifest import ShardInfo, read_manifest
from whale.clips.stats import read_stats
from whale.data_prep.config import VerifyConfig
from whale.data_prep.pool import open_pool, run_jobs
from whale.errors import UserError
from whale.progress import Progress
from whale.publish import json_text

MAX_SHOWN = 10


@dataclass(frozen=True)
class _Job:
    """One shard to check."""

    folder: Path
    shard: ShardInfo
    dataset: str
    tokenizer: str | None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_clip(raw: bytes, row: np.void, job: _Job) -> None:
    """Raise a ValueError if a clip is not the one that its row of the index, its folder and its shard say."""
    key, members = from_tar(raw)
    clip = decode(members, with_frames="tokens.npy" in members)
    made = np.array(make_row(int(row["offset"]), int(key), raw, clip), INDEX_DTYPE)
    if wrong := [name for name in INDEX_DTYPE.names or () if made[name].tobytes() != row[name].tobytes()]:
        raise ValueError(f"it is not what the index says: {', '.join(wrong)}")
    found = (clip.info.dataset, clip.info.split, clip.info.tokenizer)
    if found != (job.dataset, job.shard.split, job.tokenizer):
        raise ValueError(f"dataset, split and tokenizer are {found}")


def _check_rows(rows: np.ndarray, path: Path, job: _Job) -> list[tuple[int, str]]:
    """Numbers of the rows that do not agree with the shard, each with what is wrong."""
    wrong, end = [], 0
    with path.open("rb") as file:
        for number, row in enumerate(rows):
            offset, length = int(row["offset"]), int(row["length"])
            try:
                if offset != end or length > job.shard.num_bytes - offset:
                    raise ValueError(f"the index says {length} bytes at byte {offset}, the clip before ends at {end}")
                raw = os.pread(file.fileno(), length, offset)
                if len(raw) < length:
                    raise ValueError(f"the shard is cut off {len(raw)} bytes into it")
                _check_clip(raw, row, job)
            except ValueError as error:
                wrong.append((number, str(error)))
            end = offset + length if offset == end else end
    return wrong


def _check_shard(job: _Job) -> tuple[list[str], np.ndarray]:
    """What is damaged in a shard and its index, and the keys of its clips."""
    shard, path = job.shard, job.folder / job.shard.name
    index = index_path(path)
    if missing := [file.name for file in (path, index) if not file.is_file()]:
        return [f"{name} is missing" for name in missing], np.empty(0, np.uint64)
    damage, content = [], index.read_bytes()
    index_whole, shard_whole = hashlib.sha256(content).hexdigest() == shard.index_sha256, _sha256(path) == shard.sha256
    begin = len(content) - shard.num_clips * INDEX_DTYPE.itemsize
    rows = np.frombuffer(content, INDEX_DTYPE, offset=begin) if begin >= 0 else np.empty(0, INDEX_DTYPE)
    wrong = _check_rows(rows, path, job)
    if (size := path.stat().st_size) != shard.num_bytes:
        damage.append(f"{path.name} has {size} bytes, the manifest says {shard.num_bytes}")
    if not index_whole:
        row = wrong[0][0] if wrong else None
        where = f"within its first {begin} bytes" if row is None else (
            f"clip {key_name(int(rows['key'][row]))}, row at byte {begin + row * INDEX_DTYPE.itemsize}")
        damage.append(f"{index.name}: {where}: {len(content)} bytes whose SHA-256 is not the one in the manifest")
    if index_whole or not shard_whole:
        damage += [f"{path.name}: clip {key_name(int(rows['key'][number]))} at byte {rows['offset'][number]}: {why}"
                   for number, why in wrong]
    if not shard_whole and not wrong:
        at = shard.num_bytes - len(END_OF_TAR)
        damage.append(f"{path.name}: the end of the tar at byte {at} is damaged: every clip before it is as written")
    frames = int(rows["num_frames"].sum())
    if index_whole and (len(rows), frames) != (shard.num_clips, shard.num_frames):
        damage.append(f"{index.name} has {len(rows)} clips and {frames} frames, "
                      f"the manifest says {shard.num_clips} and {shard.num_frames}")
    return damage, rows["key"]


def _check_texts(folder: Path) -> list[str]:
    """What is wrong with `stats.json`; and texts that say what they should in bytes that were not written so."""
    try:
        read_stats(folder)
    except UserError as error:
        return [error.args[0]]
    return [f"{name} is not as it was written" for name in ("manifest.json", "stats.json")
            if (raw := (folder / name).read_bytes()) != json_text(json.loads(raw)).encode()]


def verify(config: VerifyConfig) -> None:
    """Read everything in a folder of clips.

    Raises:
        UserError: names shard, clip and byte of the damage found.
    """
    manifest = read_manifest(config.clips)
    damage = _check_texts(config.clips)
    progress = Progress("verify", sum(shard.num_bytes for shard in manifest.shards), "bytes")
    jobs = [_Job(config.clips, shard, manifest.dataset, manifest.tokenizer) for shard in manifest.shards]
    found: dict[str, list[str]] = {}
    keys: list[np.ndarray] = []
    with open_pool(config.workers) as pool:
        for job, (found[job.shard.name], own) in run_jobs(pool, _check_shard, jobs):
            keys.append(own)
            progress.advance(job.shard.num_bytes, job.shard.name)
    progress.close()
    damage += [line for shard in manifest.shards for line in found[shard.name]]
    every = np.concatenate(keys) if keys else np.empty(0, np.uint64)
    if len(np.unique(every)) != len(every):
        damage.append("the same clip key occurs twice")
    if damage:
        lines = "\n".join(f"  - {line}" for line in damage[:MAX_SHOWN])
        more = f"\n  and {len(damage) - MAX_SHOWN} more" if len(damage) > MAX_SHOWN else ""
        problem = f"{config.clips} is damaged in {len(damage)} place(s):\n{lines}{more}"
        raise UserError(problem, "remove the shards named above and run the task that wrote them again")
    total = sum(shard.num_clips for shard in manifest.shards)
    sys.stdout.write(f"{config.clips}: {len(manifest.shards)} shards, {total} clips, all as written\n")
