"""Pictures and animations of a few episodes, so that a person can see what the figures say."""

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from whale.eval.config import FidelityConfig
from whale.eval.episodes import Episodes
from whale.eval.fidelity import Scores
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
