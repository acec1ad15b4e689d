"""Fidelity of frames and of tokens: PSNR, SSIM, token flips.

Frames are uint8 with the channels last; every function maps over the leading dimensions and computes in float64.
"""

import numpy as np

PEAK = 255.0
MSE_FLOOR = 1.0 / 12.0
"""Variance of the error made by rounding to 8 bits: a smaller squared error cannot be told from the rounding itself."""
PSNR_CAP_DB = float(10.0 * np.log10(PEAK**2 / MSE_FLOOR))
"""PSNR of identical frames, 58.9 dB, so that a mean over frames stays finite."""

WINDOW_PX = 11
WINDOW_SIGMA_PX = 1.5
SSIM_C1 = (0.01 * PEAK) ** 2
SSIM_C2 = (0.03 * PEAK) ** 2
CHUNK_FRAMES = 8
"""Frames filtered at once: few enough to stay in the cache, which makes it six times as fast."""


def psnr(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each frame: uint8 [..., H, W, 3] twice -> float64 [...].

    The mean squared error is held to at least `MSE_FLOOR` (1/12, the rounding noise of 8-bit pixels), so identical
    frames score `PSNR_CAP_DB` = 58.9 dB.
    """
    _check(frames, reference)
    error = frames.astype(np.int16) - reference  # exact, and a quarter of float64's memory traffic
    squared = np.einsum("...hwc,...hwc->...", error, error, dtype=np.int64, casting="unsafe")
    mse = squared / np.prod(frames.shape[-3:])
    return 10.0 * np.log10(PEAK**2 / np.maximum(mse, MSE_FLOOR))


def ssim(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004) of each frame: uint8 [..., H, W, 3] twice -> float64 [...].

    Gaussian window of 11 x 11 pixels with sigma 1.5 over the positions where it fits wholly inside the frame,
    K1 = 0.01, K2 = 0.03, per channel and averaged. A frame must be at least 11 pixels high and wide.
    """
    _check(frames, reference)
    height, width = frames.shape[-3:-1]
    if min(height, width) < WINDOW_PX:
        raise ValueError(f"frames of {height} x {width} pixels are smaller than the {WINDOW_PX}-pixel window of SSIM")
    x, y = (image.reshape(-1, height, width, 3) for image in (frames, reference))
    chunks = [slice(start, start + CHUNK_FRAMES) for start in range(0, len(x), CHUNK_FRAMES)]
    values = np.concatenate([_ssim(x[chunk], y[chunk]) for chunk in chunks])
    return values.reshape(frames.shape[:-3])


def _ssim(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    rows, columns = _window_matrix(frames.shape[1]), _window_matrix(frames.shape[2])

    def blur(image: np.ndarray) -> np.ndarray:
        return rows @ image @ columns.T

    x, y = (np.ascontiguousarray(np.moveaxis(image, -1, 1), np.float64) for image in (frames, reference))
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variance_x + variance_y + SSIM_C2)
    return (luminance * structure).mean(axis=(-3, -2, -1))


def _window_matrix(size: int) -> np.ndarray:
    """The 1-D Gaussian window as a matrix [size - 10, size]: a 2-D filtering is then two small matrix products."""
    offsets = np.arange(WINDOW_PX) - WINDOW_PX // 2
    window = np.exp(-0.5 * (offsets / WINDOW_SIGMA_PX) ** 2)
    matrix = np.zeros((size - WINDOW_PX + 1, size))
    for row in range(len(matrix)):
        matrix[row, row : row + WINDOW_PX] = window / window.sum()
    return matrix


def token_flips(frames: np.ndarray, tokens: np.ndarray, tolerance: float = 0.0) -> tuple[int, int]:
    """Tokens that change between consecutive frames though no pixel of their patch does.

    Args:
        frames: uint8 [T, H, W, 3].
        tokens: integers [T, S], square patches in row order (H * W / S is the square of the patch size).
        tolerance: mean absolute change of a patch's pixels (of 255 levels) up to which it stands still: a video codec's
            noise, say.

    Returns:
        How many tokens flipped, and how many (frame, token) pairs had a patch that stood still.
    """
    patch_px = round((frames.shape[1] * frames.shape[2] / tokens.shape[1]) ** 0.5)
    rows, columns = frames.shape[1] // patch_px, frames.shape[2] // patch_px
    if rows * columns != tokens.shape[1] or rows * patch_px != frames.shape[1] or columns * patch_px != frames.shape[2]:
        raise ValueError(f"{tokens.shape[1]} tokens are no grid of square patches over frames of {frames.shape[1:3]}")
    change = np.abs(frames[1:].astype(np.int16) - frames[:-1])
    patches = change.reshape(-1, rows, patch_px, columns, patch_px * frames.shape[3])
    still = patches.mean(axis=(2, 4)).reshape(-1, rows * columns) <= tolerance
    return int((still & (tokens[1:] != tokens[:-1])).sum()), int(still.sum())


def token_flip_rate(frames: np.ndarray, tokens: np.ndarray) -> float:
    """Share of still patches whose token flips (see `token_flips`); 0 where no patch stands still."""
    flips, still = token_flips(frames, tokens)
    return flips / max(still, 1)


def token_accuracy(tokens: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Share of a frame's tokens that are right: integers [..., S] twice -> float64 [...]."""
    return (tokens == reference).mean(axis=-1)


def _check(frames: np.ndarray, reference: np.ndarray) -> None:
    if frames.dtype != np.uint8 or reference.dtype != np.uint8 or frames.shape != reference.shape:
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape} and {reference.dtype} {reference.shape}, need uint8 of one shape"
        )
