"""Frames out of RLDS as uint8 arrays: our reader against tensorflow-datasets, by default, batched, and tuned by hand.

tensorflow-datasets writes episodes of 256 x 256 JPEG frames. Both sides use two cores: ours with two processes that
read their own files, as in conversion, TensorFlow with its threads. The processes live on and take turns; imports,
opening the dataset and building a graph are not timed. TensorFlow decodes with its default, a DCT that is faster and
less accurate than ours. `rlds_resident_mb` is the memory of our two processes together over 10,000 episodes.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any

EPISODES, FRAMES, PX, SHARDS = 40, 50, 256, 4
PROCESSES = 2
WARM_EPISODES = 20


def write(folder: str) -> float:
    """The dataset; returns the mean size of a frame in bytes."""
    import numpy as np
    import rlds_files

    from whale.data_prep.rlds import import_tensorflow

    tf, tfds = import_tensorflow()
    features = tfds.features.FeaturesDict({
        "steps": tfds.features.Dataset({
            "observation": {
                "image": tfds.features.Image(shape=(PX, PX, 3), encoding_format="jpeg"),
                "state": tfds.features.Tensor(shape=(8,), dtype=np.float32),
            },
            "action": tfds.features.Tensor(shape=(7,), dtype=np.float32),
            "reward": tfds.features.Scalar(dtype=np.float32),
            "language_instruction": tfds.features.Text(),
            **dict.fromkeys(("is_first", "is_last", "is_terminal"), tfds.features.Scalar(dtype=np.bool_)),
        }),
        "episode_metadata": {"file_path": tfds.features.Text()},
    })
    dice, sizes = np.random.default_rng(0), []
    Path(folder).mkdir(parents=True)
    features.save_config(folder)
    for shard in range(SHARDS):
        with tf.io.TFRecordWriter(f"{folder}/generated-train.tfrecord-{shard:05d}-of-{SHARDS:05d}") as writer:
            for number in range(shard, EPISODES, SHARDS):
                images = rlds_files.film(dice, FRAMES, PX, quality=85)
                sizes += [len(image) for image in images]
                steps = [{
                    "observation": {"image": image, "state": dice.normal(size=8).astype(np.float32)},
                    "action": dice.normal(size=7).astype(np.float32), "reward": 0.0, "language_instruction": "lift it",
                    "is_first": not t, "is_last": t == FRAMES - 1, "is_terminal": False,
                } for t, image in enumerate(images)]
                episode = {"steps": steps, "episode_metadata": {"file_path": f"episode {number}"}}
                writer.write(features.serialize_example(episode))
    split = {"name": "train", "shardLengths": [str(EPISODES // SHARDS)] * SHARDS, "numBytes": str(sum(sizes)),
             "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}
    info = {"name": "generated", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    Path(folder, "dataset_info.json").write_text(json.dumps(info))
    return mean(sizes)


def ours(folder: str, part: int) -> Iterator[int]:
    """Frames of each episode, again and again: as in conversion, a process works through its own share of the files."""
    from whale.data_prep.images import decode_frames
    from whale.data_prep.source import Episode, open_source

    source = open_source(folder)
    for shard in cycle(source.shards[part::PROCESSES]):
        for episode in source.read(shard, ["image"]):
            assert isinstance(episode, Episode)
            images = episode.steps["observation"]["image"]
            yield len(decode_frames(images, range(len(images)), None))


def tfds_default(folder: str) -> Iterator[int]:
    """As its guide does: a dataset of episodes, each with a dataset of steps."""
    from whale.data_prep.rlds import import_tensorflow

    _, tfds = import_tensorflow()
    for episode in tfds.builder_from_directory(folder).as_dataset(split="train").repeat():
        yield sum(step["observation"]["image"].shape == (PX, PX, 3) for step in tfds.as_numpy(episode["steps"]))


def tfds_batched(folder: str) -> Iterator[int]:
    """The steps of all episodes one after the other, decoded and put into batches by its pipeline."""
    from whale.data_prep.rlds import import_tensorflow

    tf, tfds = import_tensorflow()
    steps = tfds.builder_from_directory(folder).as_dataset(split="train").repeat().flat_map(lambda one: one["steps"])
    for batch in steps.batch(FRAMES).prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        yield len(batch["observation"]["image"])


def tfds_tuned(folder: str) -> Iterator[int]:
    """What nobody gets by default: its decoding switched off, and images decoded by TensorFlow's own operation, all of
    an episode at once, two episodes at a time. The fastest of seven ways that were tried on two cores.
    """
    from whale.data_prep.rlds import import_tensorflow

    tf, tfds = import_tensorflow()
    decoders = {"steps": tfds.decode.SkipDecoding()}  # the steps as arrays, not as a dataset
    data = tfds.builder_from_directory(folder).as_dataset(split="train", decoders=decoders)

    def decode(episode: Any) -> Any:
        steps = episode["steps"]
        images = tf.map_fn(lambda image: tf.io.decode_jpeg(image, channels=3), steps["observation"]["image"],
                           fn_output_signature=tf.uint8)
        return steps | {"observation": steps["observation"] | {"image": images}}

    data = data.repeat().map(decode, num_parallel_calls=PROCESSES).prefetch(tf.data.AUTOTUNE)
    for steps in data.as_numpy_iterator():
        yield len(steps["observation"]["image"])


_running: list[Iterator[int]] = []


def _timed(running: Iterator[int], episodes: int) -> tuple[float, float]:
    """Seconds for the next episodes, and seconds of processor time."""
    start, cpu = time.perf_counter(), time.process_time()
    assert sum(islice(running, episodes)) == episodes * FRAMES
    return time.perf_counter() - start, time.process_time() - cpu


def time_ours(folder: str, part: int, episodes: int) -> tuple[float, float]:
    """One process with its next episodes; it reads nothing ahead."""
    if not _running:
        _running.append(ours(folder, part))
    return _timed(_running[0], episodes)


def time_tfds(side: Callable[[str], Iterator[int]], folder: str, episodes: int) -> tuple[float, float]:
    """So many episodes; opening, building a graph and filling what is read ahead do not count."""
    running = side(folder)
    assert sum(islice(running, WARM_EPISODES)) == WARM_EPISODES * FRAMES
    return _timed(running, episodes)


def resident(folder: str, part: int, episodes: int) -> list[float]:
    """MB of this process at most, in every hundredth of the episodes."""
    page, found = os.sysconf("SC_PAGE_SIZE"), [0.0] * 100
    for done, _ in enumerate(islice(ours(folder, part), episodes)):
        now = int(Path("/proc/self/statm").read_text().split()[1]) * page / 1e6
        hundredth = done * 100 // episodes
        found[hundredth] = max(found[hundredth], now)
    return found


def both(pools: list[ProcessPoolExecutor], function: Callable[..., Any], folder: str, episodes: int) -> list[Any]:
    """What a function of our side returns in each of its processes, which run at the same time."""
    waiting = [pool.submit(function, folder, part, episodes // PROCESSES) for part, pool in enumerate(pools)]
    return [one.result() for one in waiting]


def measure(folder: str, repeats: int, timed: int) -> dict[str, list[tuple[float, float]]]:
    """Frames per second of each side, and microseconds of processor time a frame; they take turns."""
    spawn = get_context("spawn")
    pools = [ProcessPoolExecutor(1, spawn) for _ in range(PROCESSES)]
    others = {side: ProcessPoolExecutor(1, spawn) for side in (tfds_default, tfds_batched, tfds_tuned)}
    names = {side.__name__: side for side in others}
    found: dict[str, list[tuple[float, float]]] = {"ours": [], **{name: [] for name in names}}
    for turn in range(repeats + 1):
        for name in sorted(found, reverse=turn % 2 == 1):
            if name == "ours":
                walls, cpus = zip(*both(pools, time_ours, folder, timed), strict=True)
                wall, cpu = max(walls), sum(cpus)
            else:
                side = names[name]
                wall, cpu = others[side].submit(time_tfds, side, folder, timed).result()
            found[name].append((timed * FRAMES / wall, 1e6 * cpu / (timed * FRAMES)))
    for pool in (*pools, *others.values()):
        pool.shutdown()
    return {name: values[1:] for name, values in found.items()}  # the first turn warms up


def main() -> None:
    from record import parser, publish, ratio  # here: the processes import this file too, and are to stay small

    from whale.eval.results import Figure

    flags = parser(__doc__ or "").parse_args()
    repeats, timed, episodes = (4, 40, 800) if flags.quick else (15, 200, 10_000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = f"{temporary}/generated/1.0.0"
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            frame_bytes = pool.submit(write, folder).result()
        measured = measure(folder, repeats, timed)
        pools = [ProcessPoolExecutor(1, get_context("spawn")) for _ in range(PROCESSES)]
        memory = [sum(parts) for parts in zip(*both(pools, resident, folder, episodes), strict=True)]
        for pool in pools:
            pool.shutdown()
    rates = {name: [rate for rate, _ in values] for name, values in measured.items()}
    cpu = {name: median(cpu for _, cpu in values) for name, values in measured.items()}
    growth = max(memory[50:]) / max(memory[:50]) - 1
    figures = [
        ratio("rlds_over_tfds_default", rates["ours"], rates["tfds_default"], {"at_least": 3}),
        ratio("rlds_over_tfds_batched", rates["ours"], rates["tfds_batched"], {"at_least": 1.3}),
        ratio("rlds_over_tfds_tuned", rates["ours"], rates["tfds_tuned"], None),
        Figure("rlds_resident_mb", max(memory), min(memory), max(memory), "MB", len(memory), {"at_most": 250}),
    ]
    details = {
        "episodes": EPISODES, "frames": FRAMES, "timed_episodes": timed, "size_px": PX, "jpeg_bytes": frame_bytes,
        "processes": PROCESSES, "frames_per_sec": rates, "cpu_us_per_frame": cpu,
        "resident_mb": memory, "resident_episodes": episodes,
        "resident_growth_second_half": growth, "resident_need": "10,000 episodes, growth below 0.01",
    }  # fmt: skip
    print(f"memory after {episodes} episodes{' (not the 10,000 that are asked for)' if flags.quick else ''}: "
          f"{memory[-1]:.0f} MB, growth over the second half {growth:.2%}")
    publish("rlds", figures, details, flags.out)


if __name__ == "__main__":
    main()
