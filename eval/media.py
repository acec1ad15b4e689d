"""Pictures and animations of a few episodes, so that a person can see what the figures say."""

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from whale.calibration import Calibration
from whale.eval import plots
from whale.eval.config import FidelityConfig, UncertaintyConfig
from whale.eval.episodes import Episodes
from whale.eval.fidelity import Scores
from whale.eval.signals import Signals
from whale.publish import publish_folder

if TYPE_CHECKING:
    from whale.models.world_model import WorldModel

PERCENTILES = (10, 50, 90)
"""Episodes shown: by their gain over copy-last-frame, so that a poor one and a good one stand beside a usual one."""
GAP_PX = 2
ANIMATION_SCALE = 3
ANIMATION_GAP_PX = 6
TRACK_COLOUR, CONTEXT_COLOUR, IMAGINED_COLOUR = (228, 231, 235), (140, 148, 158), (213, 94, 0)


def chosen_episodes(gain: np.ndarray) -> dict[int, int]:
    """Episode -> its percentile of the gain, float [N] with NaN for those that are left out."""
    order = np.argsort(gain)[: int((~np.isnan(gain)).sum())]
    return {int(order[round(q / 100 * (len(order) - 1))]): q for q in PERCENTILES}


def strip(real: np.ndarray, imagined: np.ndarray) -> np.ndarray:
    """Rows real, imagined and |difference|, a column per frame: uint8 [K, H, W, 3] twice -> uint8 picture.

    Cells are separated by `GAP_PX` white pixels; the difference is the largest over the channels, black for none.
    """
    difference = np.abs(real.astype(np.int16) - imagined).max(-1, keepdims=True).astype(np.uint8)
    rows = (real, imagined, np.repeat(difference, 3, -1))
    count, height, width = real.shape[:3]
    canvas = np.full((3 * (height + GAP_PX) - GAP_PX, count * (width + GAP_PX) - GAP_PX, 3), 255, np.uint8)
    for row, frames in enumerate(rows):
        for column, frame in enumerate(frames):
            y, x = row * (height + GAP_PX), column * (width + GAP_PX)
            canvas[y : y + height, x : x + width] = frame
    return canvas


def side_by_side(real: np.ndarray, imagined: np.ndarray, context_frames: int) -> np.ndarray:
    """Real and imagined frames beside each other, enlarged: uint8 [T, H, W, 3] twice -> uint8 [T, H', W', 3].

    The bar below is the passing of time: grey while the model is shown recorded frames, orange while it imagines.
    """
    big = [frames.repeat(ANIMATION_SCALE, 1).repeat(ANIMATION_SCALE, 2) for frames in (real, imagined)]
    count, height, width = big[0].shape[:3]
    canvas = np.full((count, height + 2 * ANIMATION_GAP_PX, 2 * width + ANIMATION_GAP_PX, 3), 255, np.uint8)
    canvas[:, :height, :width], canvas[:, :height, -width:] = big
    canvas[:, -ANIMATION_GAP_PX:] = TRACK_COLOUR
    for t in range(count):
        end = round((t + 1) / count * canvas.shape[2])
        context_end = round(context_frames / count * canvas.shape[2])
        canvas[t, -ANIMATION_GAP_PX:, :end] = IMAGINED_COLOUR
        canvas[t, -ANIMATION_GAP_PX:, : min(end, context_end)] = CONTEXT_COLOUR
    return canvas


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _webp(pictures: np.ndarray, period_sec: float) -> bytes:
    """A looping animation without loss; the last frame is held for a second."""
    buffer = io.BytesIO()
    images = [Image.fromarray(picture) for picture in pictures]
    durations_ms = [round(1000 * period_sec)] * (len(images) - 1) + [1000]
    images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:], duration=durations_ms, loop=0,
                   lossless=True, quality=50)  # fmt: skip
    return buffer.getvalue()


def publish_media(
    model: "WorldModel", episodes: Episodes, scores: Scores, config: FidelityConfig
) -> list[dict[str, Any]]:
    """Write strips and animations of the chosen episodes to `<out>/<name>/`; returns what the result lists of them."""
    k = config.horizons.index(config.judge_horizon)
    gain = scores.psnr["model"][:, k] - scores.psnr["copy"][:, k]
    chosen = chosen_episodes(gain)
    imagined = model.decode(scores.imagined_tokens[list(chosen)])
    media = []
    with publish_folder(config.out / config.name) as folder:
        for (i, percentile), dream in zip(chosen.items(), imagined, strict=True):
            length = int(episodes.lengths[i])
            horizons = [0] + [h for h in config.horizons if config.context_frames + h <= length]
            at = config.context_frames - 1 + np.array(horizons)
            episode = episodes.names[i] + (f", from frame {episodes.starts[i]}" if episodes.starts[i] else "")
            shared = {"episode": episode, "percentile": percentile, "gain_over_copy_db": float(gain[i])}
            pictures = side_by_side(episodes.frames[i, :length], dream[:length], config.context_frames)
            files = {
                "strip": (f"strip_{percentile}.png", _png(strip(episodes.frames[i, at], dream[at]))),
                "animation": (f"animation_{percentile}.webp", _webp(pictures, episodes.control_period_sec)),
            }
            for kind, (name, content) in files.items():
                Path(folder / name).write_bytes(content)
                entry = {"kind": kind, "path": f"{config.name}/{name}", "sha256": hashlib.sha256(content).hexdigest()}
                media.append(shared | entry | ({"horizons": horizons} if kind == "strip" else {}))
    return media


def publish_strips(
    model: "WorldModel", episodes: Episodes, signals: Signals, calibration: Calibration, config: UncertaintyConfig
) -> list[dict[str, Any]]:
    """Write strips of disagreement and error to `<out>/<name>/`; returns what the result lists of them.

    They are of the episodes at the 10th and 90th percentile of the uncertainty at the last step.
    """
    assert signals.divergence is not None
    last, accumulated = config.horizon, signals.accumulated["retracing"]
    steps = np.array(sorted({2**k for k in range(last.bit_length())} | {last})) - 1
    at, grid = config.context_frames + steps, int(signals.divergence.shape[2] ** 0.5)
    chosen = {i: q for i, q in chosen_episodes(accumulated[:, -1]).items() if q != 50}
    shown, heats = [], []
    for i in chosen:
        true = model.encode(episodes.frames[i])
        given = true[: config.context_frames]
        dream, aim = model.decode(np.stack([np.concatenate([given, signals.tokens[i]]), true]))[:, at]
        shown.append(np.stack([episodes.frames[i, at], dream]))
        cells = np.square(dream.astype(np.float32) - aim).reshape(len(at), grid, aim.shape[1] // grid, grid, -1, 3)
        disagreement = signals.divergence[i, steps].reshape(-1, grid, grid)
        heats.append(np.stack([disagreement, np.sqrt(cells.mean((2, 4, 5)))]))
    limits = np.percentile(heats, 99.5, axis=(0, 2, 3, 4))
    media = []
    with publish_folder(config.out / config.name) as folder:
        for (i, percentile), pictures, heat in zip(chosen.items(), shown, heats, strict=True):
            expected = calibration.expected_error(accumulated[i, steps])
            notes = [f"expected {a:.1f}\ntrue {b:.1f}" for a, b in zip(expected, signals.error[i, steps], strict=True)]
            titles = [f"+{step + 1}" for step in steps]
            content = plots.uncertainty_strip(pictures, heat, limits, titles, notes)
            name = f"uncertainty_{percentile}.png"
            Path(folder / name).write_bytes(content)
            media.append({"kind": "uncertainty", "episode": episodes.names[i], "percentile": percentile,
                          "path": f"{config.name}/{name}", "sha256": hashlib.sha256(content).hexdigest()})  # fmt: skip
    return media
