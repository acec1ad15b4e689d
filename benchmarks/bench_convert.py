"""Conversion against a bare loop of the decode, resize and encode calls in it, with one worker and with two.

Both handle the same generated episodes of 256 x 256 JPEG frames, in the same processes, which have imported everything
before the clock starts; the bare loop has its frames in memory and keeps nothing. All that conversion does counts: the
scan, checksums, parsing, hashing, the shards with their flushes to disk, statistics and manifest.
"""

import contextlib
import io
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import rlds_files
from record import parser, publish, ratio

from whale.clips.codec import film_strip
from whale.data_prep.config import ConvertConfig
from whale.data_prep.convert import convert_with
from whale.data_prep.images import decode_frames
from whale.data_prep.lock import FolderLock
from whale.data_prep.oxe.spec import ActionSpec, DatasetSpec, Frame, Part
from whale.data_prep.pool import open_pool
from whale.data_prep.scan import frozen_split
from whale.data_prep.source import open_source
from whale.eval.results import Figure

PX, FRAMES, SHARDS = 256, 40, 8
SPEC = DatasetSpec(
    name="generated", cameras={"image": "external"}, control_period_sec=0.2, source_keys=("file_path",),
    action=ActionSpec(
        frame=Frame.BASE, position=Part(key="action", size=3), rotation=Part(key="action", first=3, size=3),
        gripper=Part(key="action", first=6, size=1)),
    episode_keys=("file_path",), instruction=None,
)  # fmt: skip


Films = list[list[bytes]]


def generate(folder: Path, episodes: int) -> tuple[str, Films]:
    """The dataset and its films; these repeat, the actions do not, so no two episodes are the same."""
    dice = np.random.default_rng(0)
    films = [rlds_files.film(dice, FRAMES, PX, quality=95) for _ in range(8)]
    made = [rlds_files.episode(f"episode_{i}", films[i % len(films)], dice.normal(0, 0.02, (FRAMES, 7)))
            for i in range(episodes)]  # fmt: skip
    return str(rlds_files.write(folder / "generated" / "1.0.0", [made[i::SHARDS] for i in range(SHARDS)])), films


def bare_loop(films: Films, episodes: int, size_px: int) -> float:
    """Seconds for so many episodes."""
    start = time.perf_counter()
    for i in range(episodes):
        images = films[i % len(films)]
        film_strip(decode_frames(images, range(len(images)), size_px))
    return time.perf_counter() - start


def run_bare(pool: ProcessPoolExecutor | None, films: Films, episodes: int, size_px: int) -> float:
    """Seconds until all are done, by this process or by two."""
    if pool is None:
        return bare_loop(films, episodes, size_px)
    halves = [pool.submit(bare_loop, films, episodes // 2, size_px) for _ in range(2)]
    return max(half.result() for half in halves)


def run_convert(pool: ProcessPoolExecutor | None, source: str, size_px: int, scan_alone: bool = False) -> float:
    """Seconds of a whole conversion, or of its scan."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), \
            contextlib.redirect_stderr(io.StringIO()):  # fmt: skip
        config = ConvertConfig(source=source, out=Path(folder) / "clips", spec=SPEC, camera="image", size_px=size_px)
        start = time.perf_counter()
        if scan_alone:
            with FolderLock(config.out, "scan", 0) as lock:
                frozen_split(pool, config, SPEC, open_source(source), [], "scan", lock)
        elif convert_with(config, pool):
            raise RuntimeError("the conversion was not whole")
        return time.perf_counter() - start


def measure(source: str, films: Films, episodes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds by what was run, interleaved; which comes first alternates."""
    seconds: dict[str, list[float]] = {}
    with open_pool(2) as two:
        pools = {"1": None, "2": two}
        runs = [(f"{what}_{name}", what, pools[name]) for name in pools for what in ("bare", "convert")]
        for turn in range(repeats + 1):
            for name, what, pool in runs[:: -1 if turn % 2 else 1]:
                found = run_bare(pool, films, episodes, 64) if what == "bare" else run_convert(pool, source, 64)
                seconds.setdefault(name, []).append(found)
    return seconds


def main() -> None:
    flags = parser(__doc__ or "").parse_args()
    episodes, repeats = (80, 3) if flags.quick else (160, 5)
    others = {}
    with tempfile.TemporaryDirectory() as folder:
        source, films = generate(Path(folder), episodes)
        seconds = measure(source, films, episodes, repeats)
        scan = run_convert(None, source, 64, scan_alone=True)
        for size_px in () if flags.quick else (128, 256):
            bare, whole = run_bare(None, films, episodes, size_px), run_convert(None, source, size_px)
            others[size_px] = {"convert_sec": whole, "bare_sec": bare, "convert_over_bare": bare / whole}
    seconds = {name: values[1:] for name, values in seconds.items()}  # the first turn warms up
    four = [seconds[name] for name in ("convert_1", "convert_2", "bare_1", "bare_2")]
    c1, c2, b1, b2 = map(median, four)
    scaling = [(one / two) / (bare_one / bare_two) for one, two, bare_one, bare_two in zip(*four, strict=True)]
    figures = [
        ratio("convert_over_bare_loop", seconds["bare_1"], seconds["convert_1"], {"at_least": 0.8}),
        Figure("convert_scaling_over_bare_loop", (c1 / c2) / (b1 / b2), min(scaling), max(scaling), "ratio",
               len(scaling), {"at_least": 0.95}),
    ]  # fmt: skip
    details = {
        "episodes": episodes, "frames": FRAMES, "stored_px": PX, "px": 64,
        "jpeg_bytes": sum(len(image) for film in films for image in film) // (len(films) * FRAMES),
        "frames_per_sec": {name: episodes * FRAMES / median(values) for name, values in seconds.items()},
        "seconds": seconds, "scan_sec": scan, "other_sizes": others,
    }  # fmt: skip
    publish("convert", figures, details, flags.out)


if __name__ == "__main__":
    main()
