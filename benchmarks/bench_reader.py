"""What the reader gives training: clips per second, over plain webdataset too; the first batch after a resume; memory.

Synthetic token clips of 16 frames x 256 tokens lie in eight shards under a temporary folder, so in the page cache. Each
reader has the number of workers that suits it best on this machine, and they take turns, each started anew. webdataset
decodes every member of a sample and collates nothing; ours gives the whole batches that training receives.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from record import parser, publish, ratio

from whale.actions import ActionStatus
from whale.clips.clip import ActionType, Clip, ClipInfo, Source
from whale.clips.loader import ClipLoader, DataConfig, DataSource
from whale.clips.manifest import UnitRecord, write_manifest, write_record
from whale.clips.reader import ClipReader
from whale.clips.stats import write_stats
from whale.clips.writer import ShardWriter
from whale.eval.results import Figure

FRAMES, TOKENS, CODES, BATCH = 16, 256, 1000, 128
WORKERS = (0, 1, 2)
"""Of two cores."""


def random_clip(rng: np.random.Generator, number: int, split: str) -> Clip:
    info = ClipInfo(
        dataset="random", episode=f"episode {number}", start=0, split=split, camera="image", view="external",
        control_period_sec=0.2, action_type=ActionType.EEF_DELTA, action_status=(ActionStatus.ACTUATED,) * 7,
        instruction="put the carrot on the plate", success=None, source=Source("random-00000-of-00001", number),
        tokenizer="random",
    )  # fmt: skip
    steps = np.arange(FRAMES)
    return Clip(
        info=info, frames=None, tokens=rng.integers(0, CODES, (FRAMES, TOKENS), np.uint16),
        actions=rng.normal(size=(FRAMES, 7)).astype(np.float32), action_known=steps < FRAMES - 1,
        rewards=rng.random(FRAMES).astype(np.float32), proprio=rng.normal(size=(FRAMES, 7)).astype(np.float32),
        is_first=steps == 0, is_last=steps == FRAMES - 1, is_terminal=steps < 0,
    )  # fmt: skip


def write_clips(folder: Path, clips: int) -> None:
    """Eight shards of train clips, and a single val clip."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder, 0, max_clips=-(-clips // 8)) as writer:
        for number in range(clips):
            writer.write(random_clip(rng, number, "train"))
        writer.write(random_clip(rng, clips, "val"))
    write_record(folder, UnitRecord(0, "random", "benchmark", writer.shards, {}))
    write_stats(folder, write_manifest(folder, "random", "random", 1))


def config_of(folder: Path, workers: int) -> DataConfig:
    return DataConfig(sources=(DataSource(folder=folder),), frames=FRAMES, batch=BATCH, workers=workers)


def our_clips(folder: Path, workers: int) -> Iterator[int]:
    """Clips in batch after batch, as training receives them."""
    for batch in ClipLoader(config_of(folder, workers), "train").batches():
        yield len(batch["position"])


def webdataset_clips(folder: Path, workers: int) -> Iterator[int]:
    """Clips in list after list of decoded samples, from the same shards over and over."""
    import webdataset
    from torch.utils.data import DataLoader

    urls = [str(folder / shard.name) for shard in ClipReader(folder, "train").shards]
    samples = webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=None).repeat().decode().shuffle(1000)
    for batch in DataLoader(samples, batch_size=BATCH, num_workers=workers, collate_fn=list):
        yield len(batch)


def rate(clips: Iterator[int], seconds: float) -> float:
    """Clips per second over about this long."""
    start, count = time.perf_counter(), 0
    while (now := time.perf_counter()) < start + seconds:
        count += next(clips)
    return count / (now - start)


def best_workers(
    make: Callable[[Path, int], Iterator[int]], folder: Path, seconds: float
) -> tuple[int, dict[int, float]]:
    """The number of workers that gives most clips per second, and what each number gives."""
    rates = {}
    for workers in WORKERS:
        clips = make(folder, workers)
        rate(clips, seconds / 2)  # starts workers and fills their queues
        rates[workers] = rate(clips, seconds)
    return max(rates, key=lambda workers: rates[workers]), rates


def compare(folder: Path, repeats: int, seconds: float) -> dict[str, Any]:
    """Rates of both readers in turn, each with the workers that suit it best."""
    found: dict[str, Any] = {"ours": {}, "webdataset": {}}
    makers = {"ours": our_clips, "webdataset": webdataset_clips}
    for name, make in makers.items():
        found[name]["workers"], found[name]["by_workers"] = best_workers(make, folder, seconds)
        found[name]["clips_per_sec"] = []
    for repeat in range(repeats):
        for name in sorted(makers, reverse=repeat % 2 == 1):
            clips = makers[name](folder, found[name]["workers"])  # its workers idle not while the other is measured
            rate(clips, seconds / 2)
            found[name]["clips_per_sec"].append(rate(clips, seconds))
            del clips
    return found


def first_batches(folder: Path, times: int, clips: int, workers: int) -> dict[str, list[float]]:
    """Seconds to the first batch from random positions on, of a new loader; and of opening that loader."""
    rng = np.random.default_rng(1)
    seconds: dict[str, list[float]] = {"open": [], "first_batch": [], "next_three": []}
    for position in rng.integers(0, 1000 * clips, times).tolist():
        start = time.perf_counter()
        loader = ClipLoader(config_of(folder, workers), "train")
        opened = time.perf_counter()
        batches = loader.batches(position)
        next(batches)
        first = time.perf_counter()
        list(islice(batches, 3))
        for name, took in zip(seconds, (opened - start, first - opened, time.perf_counter() - first), strict=True):
            seconds[name].append(took)
        batches.close()  # type: ignore[attr-defined]
    return seconds


def resident(pid: int) -> dict[str, float]:
    """Resident memory of a process in MB: in all, and without the pages of files and of shared segments."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return {"all": sizes["VmRSS"], "anonymous": sizes["RssAnon"]}


def memory(folder: Path, clips: int, workers: int) -> dict[str, Any]:
    """Resident memory of this process and its workers, looked at fifty times while that many clips go by.

    It goes up and down with the batches under way. Growth: the most of the second half over the most of the first.
    """
    batches = our_clips(folder, workers)
    taken, samples = 0, []
    while taken < clips:
        taken += next(batches)
        if taken >= clips // 50 * (1 + len(samples)):
            pids = ["self", *(child.pid for child in active_children())]
            sizes = [resident(pid) for pid in pids]
            samples.append({name: sum(size[name] for size in sizes) for name in sizes[0]} | {"clips": taken})
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    half = len(samples) // 2
    growth = {name: max(one[name] for one in samples[half:]) / max(one[name] for one in samples[:half]) - 1
              for name in ("all", "anonymous")}
    return {"growth": growth, "mb": samples, "open_files": open_files}


def main() -> None:
    flags = parser(__doc__ or "").parse_args()
    clips, repeats, seconds, times, many = (
        (20_000, 3, 1.0, 20, 200_000) if flags.quick else (40_000, 9, 3.0, 50, 1_000_000)
    )
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        folder = Path(name)
        write_clips(folder, clips)
        found = compare(folder, repeats, seconds)
        workers = found["ours"]["workers"]
        resumed = first_batches(folder, times, clips, max(1, workers))
        held = pool.submit(memory, folder, many, max(1, workers)).result()  # in a process that has done nothing else
    ours, theirs = found["ours"]["clips_per_sec"], found["webdataset"]["clips_per_sec"]
    first, growth = resumed["first_batch"], held["growth"]["all"]
    figures = [
        Figure("reader_clips_per_sec", median(ours), min(ours), max(ours), "clips/s", len(ours), {"at_least": 20_000}),
        ratio("reader_over_webdataset", ours, theirs, {"at_least": 5.0}),
        Figure("reader_first_batch_sec", max(first), min(first), max(first), "s", len(first), {"at_most": 0.1}),
        Figure("reader_memory_growth", growth, growth, growth, "fraction", many, {"at_most": 0.01}),
    ]  # fmt: skip
    details = {
        "clips": clips, "frames": FRAMES, "tokens": TOKENS, "batch": BATCH, "rates": found, "resume": resumed,
        "memory_clips": many, "memory": held,
    }  # fmt: skip
    publish("reader", figures, details, flags.out)


if __name__ == "__main__":
    main()
