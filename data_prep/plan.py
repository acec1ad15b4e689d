"""What conversions will take, estimated from a few episodes that are really converted, in memory.

Each conversion is measured in a process of its own, so that its peak of memory is its own. Episodes, input bytes and
input shards are what the source says; the rest is the mean of the sample times the episodes.
"""

import dataclasses
import math
import multiprocessing
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from whale.clips.codec import encode, to_tar
from whale.clips.index import INDEX_DTYPE, key_name
from whale.clips.writer import MAX_SHARD_BYTES, MAX_SHARD_CLIPS
from whale.config import configclass, load_config
from whale.data_prep.config import ConvertConfig
from whale.data_prep.convert import spec_for
from whale.data_prep.duplicates import row_of
from whale.data_prep.episode import SkipEpisodeError, numbers_of, to_clips
from whale.data_prep.files import free_bytes, size_text
from whale.data_prep.images import BadImageError
from whale.data_prep.oxe.spec import DatasetSpec
from whale.data_prep.oxe.transforms import feature_at
from whale.data_prep.source import Episode, InputShard, Source, Unreadable, open_source
from whale.errors import UserError
from whale.progress import Progress, say
from whale.publish import write_json
from whale.worker import begin_loading

Positive = Annotated[int, Field(ge=1)]
SUMMED = ("episodes", "input_shards", "input_bytes", "frames", "clips", "output_shards", "output_bytes", "hours")
SAMPLED_SHARDS = 8
"""Most input shards that a sample is taken from; each costs a file opened, maybe far away."""


@configclass
class PlanConfig:
    """Estimate what conversions will take."""

    conversions: tuple[str, ...]
    """Each what stands behind `whale data_prep convert`: YAML files and `key=value`."""
    tasks: Positive = 1
    """Tasks that each conversion is to be shared out over."""
    workers: Positive = 1
    """Processes of each task."""
    sample_episodes: Positive = 32
    """Episodes of each dataset to convert, spread over its input shards."""
    out: Path | None = None
    """JSON file to write the estimates to."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one conversion takes."""

    conversion: str
    dataset: str
    episodes: int
    input_shards: int
    input_bytes: int
    frames: int
    clips: int
    output_shards: int
    output_bytes: int
    output_bytes_within: float
    """Half of a 95 % interval of the output bytes that follows from the sample, as a fraction of them."""
    left_out: float
    """Fraction of the sample that gives no clip; duplicates are found by the conversion only."""
    sampled: int
    tasks: int
    """At most one an input shard."""
    hours: float
    """With these tasks at the same time, on processors like this one."""
    process_bytes: int
    """Peak resident memory of the process that converted the sample."""
    free_bytes: int
    """Room where the clips are to be written."""


class _Converted(NamedTuple):
    """One episode of the sample."""

    clips: int
    frames: int
    num_bytes: int
    seconds: float


def _convert(config: ConvertConfig, spec: DatasetSpec, shard: InputShard, episode: Episode) -> tuple[int, int, int]:
    """Clips, frames and bytes of an episode, by what both passes of a conversion do to it."""
    try:
        images = feature_at(episode.steps["observation"], config.camera)
        numbers = numbers_of(episode, spec, config.camera)
        row_of(shard.unit, episode.record, 0, numbers, images, config.camera in spec.bgr)
        clips = list(to_clips(episode, spec, config, "train", shard))
    except (SkipEpisodeError, BadImageError):
        return 0, 0, 0
    written = sum(len(to_tar(key_name(k), encode(clip))) + INDEX_DTYPE.itemsize for k, clip in enumerate(clips))
    return len(clips), sum(clip.num_frames for clip in clips), written


def _sample(config: ConvertConfig, spec: DatasetSpec, source: Source, count: int) -> Iterator[_Converted]:
    """The first episodes of input shards that are spread over the dataset."""
    several = min(SAMPLED_SHARDS, len(source.shards), count)
    for number in np.linspace(0, len(source.shards) - 1, several).round().astype(int):
        begin = time.perf_counter()
        for one in islice(source.read(source.shards[number], [config.camera]), math.ceil(count / several)):
            read = time.perf_counter()
            numbers = (0, 0, 0) if isinstance(one, Unreadable) else _convert(config, spec, source.shards[number], one)
            end = time.perf_counter()
            yield _Converted(*numbers, 2 * (read - begin) + end - read)  # both passes read it
            begin = time.perf_counter()


def _peak_bytes() -> int:
    """Peak resident memory of this process; `getrusage` would count its parent's."""
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return 1024 * int(peak[1])


def _output_shards(config: ConvertConfig, shards: Sequence[InputShard], num_bytes: float, clips: float) -> int:
    """Expected number of tars, with these bytes and clips an episode: of each input shard some for each split."""
    expected = 0.0
    for shard in shards:
        for part in (1 - config.val_fraction, config.val_fraction):
            full = part * shard.num_records * max(num_bytes / MAX_SHARD_BYTES, clips / MAX_SHARD_CLIPS)
            expected += max(1, math.ceil(full)) * (1 - (1 - part) ** shard.num_records)
    return round(expected)


def _hours(shards: Sequence[InputShard], tasks: int, workers: int, seconds: float) -> float:
    """Until the last of the tasks has ended, with these seconds an episode."""
    loads = [sum(shard.num_records for shard in shards[task::tasks]) / workers for task in range(tasks)]
    return max(*loads, *(shard.num_records for shard in shards)) * seconds / 3600


def estimate(conversion: str, config: ConvertConfig, tasks: int, workers: int, sample_episodes: int) -> Estimate:
    """Measure one conversion; `conversion` is what it is called.

    Raises:
        UserError: its source cannot be read, or nothing of the sample.
    """
    source = open_source(config.source, config.reader)
    spec, shards = spec_for(config, source), source.shards
    next(_sample(config, spec, source, 1), None)  # what is loaded by the first is loaded once
    sample = np.array(list(_sample(config, spec, source, sample_episodes)))
    if not sample.size or not sample[:, 0].any():
        raise UserError(f"no episode sampled of {config.source} gives a clip", "`whale data_prep audit` says why")
    clips, frames, num_bytes, seconds = (float(mean) for mean in sample.mean(0))
    episodes, sampled = sum(shard.num_records for shard in shards), len(sample)
    spread = float(sample[:, 2].std(ddof=1)) if sampled > 1 else num_bytes
    within = 1.96 * spread / num_bytes * math.sqrt(max(0, 1 / sampled - 1 / episodes))
    tasks = min(tasks, len(shards))
    return Estimate(
        conversion, spec.name, episodes, len(shards), sum(shard.num_bytes for shard in shards),
        round(frames * episodes), round(clips * episodes), _output_shards(config, shards, num_bytes, clips),
        round(num_bytes * episodes), within, float((sample[:, 0] == 0).mean()), sampled, tasks,
        _hours(shards, tasks, workers, seconds), _peak_bytes(), free_bytes(config.out),
    )  # fmt: skip


def _measure(config: PlanConfig, conversion: str) -> Estimate:
    words = shlex.split(conversion)
    files, settings = ([word for word in words if ("=" in word) == is_setting] for is_setting in (False, True))
    chosen = load_config(ConvertConfig, [Path(file) for file in files], settings)
    how = config.tasks, config.workers, config.sample_episodes
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin_loading, (0,)) as process:
        return process.submit(estimate, conversion, chosen, *how).result()


def _row(name: str, values: dict[str, float], more: tuple[str, str]) -> tuple[str, ...]:
    counts = [f"{values[count]:,}" for count in ("episodes", "frames", "clips", "input_shards", "output_shards")]
    sizes = [size_text(values[size]) for size in ("input_bytes", "output_bytes")]
    return name, *counts, *sizes, f"{values['hours']:.2f}", *more


def _table(estimates: Sequence[Estimate]) -> str:
    head = "dataset", "episodes", "frames", "clips", "shards", "tars", "input", "output", "hours", "+-", "memory"
    rows: list[tuple[str, ...]] = [head]
    for one in estimates:
        values = dataclasses.asdict(one)
        rows.append(_row(one.dataset, values, (f"{one.output_bytes_within:.0%}", size_text(one.process_bytes))))
    rows.append(_row("all", {name: sum(getattr(one, name) for one in estimates) for name in SUMMED}, ("", "")))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)] for row in rows]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *line]) for row, line in zip(rows, lines, strict=True))


def _command(one: Estimate, workers: int) -> str:
    gigabytes = math.ceil((workers + (workers > 1)) * one.process_bytes / 1e9)
    return (
        f'sbatch "${{DATA_PREP[@]}}" --array=0-{one.tasks - 1} --cpus-per-task={workers} --mem={gigabytes}G '
        f"slurm/data_prep.sbatch convert {one.conversion} workers={workers}"
    )


def plan(config: PlanConfig) -> None:
    """The task: estimate each conversion, and show a table of all with the commands that submit them.

    Raises:
        UserError: a conversion's configuration is wrong, or its source cannot be read.
    """
    progress, estimates = Progress("plan", len(config.conversions), "datasets"), []
    for conversion in config.conversions:
        estimates.append(_measure(config, conversion))
        progress.advance(1, estimates[-1].dataset)
    progress.close()
    say(_table(estimates))
    say(f"\nhours: {config.tasks} tasks of {config.workers} processes at a time, each as fast as one here")
    say("+-: of the output, by the spread of the sample; memory: of a process; duplicates are counted as others\n")
    for one in estimates:
        if one.left_out:
            say(f"note: {one.left_out:.0%} of the {one.sampled} episodes sampled of {one.dataset} give no clip")
        if one.output_bytes > one.free_bytes:
            say(f"note: {one.dataset} does not fit: {size_text(one.free_bytes)} are free where it is to be written")
    for one in estimates:
        say(_command(one, config.workers))
    if config.out:
        write_json(config.out, {"conversions": [dataclasses.asdict(one) for one in estimates]})
