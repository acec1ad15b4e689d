"""Frames per second out of RLDS, decoded to uint8 arrays: our reader against tensorflow-datasets, default and batched.

tensorflow-datasets writes episodes of 256 x 256 JPEG frames; each side reads them in a process of its own that lives on,
so imports are not timed, and they take turns. All use both cores. TensorFlow decodes with a faster, less accurate DCT, its
default. `rlds_resident_mb` is the memory of a further process that has read 10,000 episodes.
"""

import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

EPISODES, FRAMES, PX, SHARDS = 40, 50, 256, 4
THREADS = 2


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


def ours(folder: str) -> Iterator[int]:
    """Frames of each episode; two threads read and decode an input shard each."""
    from whale.data_prep.images import decode_frames
    from whale.data_prep.source import Episode, open_source

    def decode(episode: Any) -> Any:
        assert isinstance(episode, Episode)
        images = episode.steps["observation"]["image"]
        return decode_frames(images, range(len(images)), None)

    source = open_source(folder)
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for shard in source.shards:
            for episode in source.read(shard, ["image"]):
                waiting.append(pool.submit(decode, episode))
                if len(waiting) > THREADS:
                    yield len(waiting.popleft().result())
        while waiting:
            yield len(waiting.popleft().result())


def tfds_default(folder: str) -> Iterator[int]:
    """As its guide does: a dataset of episodes, each with a dataset of steps."""
    from whale.data_prep.rlds import import_tensorflow

    _, tfds = import_tensorflow()
    for episode in tfds.builder_from_directory(folder).as_dataset(split="train"):
        yield sum(step["observation"]["image"].shape == (PX, PX, 3) for step in tfds.as_numpy(episode["steps"]))


def tfds_batched(folder: str) -> Iterator[int]:
    """All steps of an episode at once: its images decoded in parallel by tf.data, episodes too, and read ahead."""
    from whale.data_prep.rlds import import_tensorflow

    tf, tfds = import_tensorflow()
    decoders = {"steps": {"observation": {"image": tfds.decode.SkipDecoding()}}}
    read = tfds.ReadConfig(interleave_cycle_length=SHARDS)
    data = tfds.builder_from_directory(folder).as_dataset(split="train", decoders=decoders, read_config=read)

    def decode(episode: Any) -> Any:
        steps = episode["steps"].batch(FRAMES).get_single_element()
        images = tf.map_fn(lambda image: tf.io.decode_jpeg(image, channels=3), steps["observation"]["image"],
                           fn_output_signature=tf.uint8)
        return steps | {"observation": steps["observation"] | {"image": images}}

    for steps in data.map(decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        yield len(steps["observation"]["image"])


SIDES: dict[str, Callable[[str], Iterator[int]]] = {
    "ours": ours, "tfds_default": tfds_default, "tfds_batched": tfds_batched,
}  # fmt: skip


def rate(side: str, folder: str, passes: int) -> float:
    """Frames per second of one side."""
    start = time.perf_counter()
    frames = sum(sum(SIDES[side](folder)) for _ in range(passes))
    assert frames == passes * EPISODES * FRAMES
    return frames / (time.perf_counter() - start)


def resident(folder: str, episodes: int) -> list[float]:
    """MB of this process, after every hundredth of the episodes."""
    import os

    found = []
    page = os.sysconf("SC_PAGE_SIZE")
    done = 0
    while done < episodes:
        for _ in ours(folder):
            done += 1
            if done % (episodes // 100) == 0:
                found.append(int(Path("/proc/self/statm").read_text().split()[1]) * page / 1e6)
    return found


def main() -> None:
    from record import parser, publish, ratio  # here: the processes import this file too, and are to stay small

    from whale.eval.results import Figure

    flags = parser(__doc__ or "").parse_args()
    repeats, passes, episodes = (4, 1, 1200) if flags.quick else (15, 3, 10_000)
    spawn = get_context("spawn")
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as temporary:
        folder = f"{temporary}/generated/1.0.0"
        with ProcessPoolExecutor(1, spawn) as pool:
            frame_bytes = pool.submit(write, folder).result()
        pools = {side: ProcessPoolExecutor(1, spawn) for side in SIDES}
        for turn in range(repeats + 1):
            for side in sorted(SIDES, reverse=turn % 2 == 1):
                rates[side].append(pools[side].submit(rate, side, folder, passes).result())
        for pool in pools.values():
            pool.shutdown()
        with ProcessPoolExecutor(1, spawn) as pool:
            memory = pool.submit(resident, folder, episodes).result()
    rates = {side: found[1:] for side, found in rates.items()}  # the first turn warms up
    growth = mean(memory[-10:]) / mean(memory[45:55]) - 1
    figures = [
        ratio("rlds_over_tfds_default", rates["ours"], rates["tfds_default"], {"at_least": 3}),
        ratio("rlds_over_tfds_batched", rates["ours"], rates["tfds_batched"], {"at_least": 1.3}),
        Figure("rlds_resident_mb", max(memory), min(memory), max(memory), "MB", len(memory), {"at_most": 250}),
    ]
    details = {
        "episodes": EPISODES, "frames": FRAMES, "size_px": PX, "jpeg_bytes": frame_bytes, "threads": THREADS,
        "frames_per_sec": rates, "resident_mb": memory, "resident_episodes": episodes,
        "resident_growth_second_half": growth, "resident_need": "10,000 episodes, growth below 0.01",
    }  # fmt: skip
    print(f"memory after {episodes} episodes{' (not the 10,000 that are asked for)' if flags.quick else ''}: "
          f"{memory[-1]:.0f} MB, growth over the second half {growth:.2%}")
    publish("rlds", figures, details, flags.out)


if __name__ == "__main__":
    main()
