"""Encoded frames to pixels. JPEG by libjpeg-turbo itself, at a reduced scale where the target is smaller: a quarter
less time than through OpenCV for the same pixels. OpenCV reads the rest and resizes.
"""

import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

JPEG_MAGIC = b"\xff\xd8\xff"
MAX_PIXELS = 1 << 26
"""Largest image that is decoded: what claims to be larger is damaged, or is meant to fill the memory."""


@runtime_checkable
class Video(Protocol):
    """Frames in a video file (`video.VideoFrames`)."""

    def __len__(self) -> int: ...

    def decode(self, which: Sequence[int], size_px: int | None) -> np.ndarray:
        """Some of its frames, as `decode_frames` gives them."""

    def digest(self) -> bytes:
        """Hash of what is stored."""


Images: TypeAlias = Sequence[bytes] | Video


class BadImageError(ValueError):
    """A frame that cannot be decoded; its text names the step."""


@functools.cache
def _import_cv2() -> Any:
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # it is read when the module is loaded
    import cv2

    cv2.setNumThreads(1)  # workers are processes
    return cv2


def resized(image: np.ndarray, size_px: int | None) -> np.ndarray:
    """An image [H, W, 3] made square: by area where it shrinks, linearly where it grows; None keeps its size."""
    if size_px is None or image.shape[:2] == (size_px, size_px):
        return image
    cv2 = _import_cv2()
    shrinks = min(image.shape[:2]) >= size_px
    return cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _decode_jpeg(raw: bytes, size_px: int | None, bgr: bool) -> np.ndarray:
    """A JPEG, at the smallest of libjpeg's scales that is not below `size_px`; a ValueError when it is not whole."""
    import simplejpeg

    height, width = simplejpeg.decode_jpeg_header(raw)[:2]
    if height * width > MAX_PIXELS:
        raise ValueError(f"it claims {height} x {width} pixels")
    least = {} if size_px is None else {"min_height": size_px, "min_width": size_px, "min_factor": 2}
    return simplejpeg.decode_jpeg(raw, "BGR" if bgr else "RGB", **least)


def _decode_any(raw: bytes, bgr: bool) -> np.ndarray | None:
    """Whatever OpenCV reads; None when it cannot be decoded."""
    cv2 = _import_cv2()
    try:
        colours = cv2.IMREAD_COLOR if bgr else cv2.IMREAD_COLOR_RGB
        return cv2.imdecode(np.frombuffer(raw, np.uint8), colours | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # an empty one, or one of more than MAX_PIXELS
        return None


def _decode_one(raw: bytes, size_px: int | None, bgr: bool) -> np.ndarray | None:
    if raw.startswith(JPEG_MAGIC):
        try:
            return _decode_jpeg(raw, size_px, bgr)
        except ValueError:  # damaged, or in colours such as CMYK, which OpenCV knows
            pass
    return _decode_any(raw, bgr)


def _decode(images: Sequence[bytes], which: Sequence[int], size_px: int | None, bgr: bool) -> np.ndarray:
    frames: np.ndarray | None = None
    for i, step in enumerate(which):
        image = _decode_one(images[step], size_px, bgr)
        if image is None:
            raise BadImageError(f"the image of step {step} cannot be decoded")
        image = resized(image, size_px)
        if frames is None:
            frames = np.empty((len(which), *image.shape), np.uint8)
        if image.shape != frames.shape[1:]:
            raise BadImageError(f"the image of step {step} has another size than the first")
        frames[i] = image
    assert frames is not None
    return frames


def decode_frames(images: Images, which: Sequence[int], size_px: int | None, bgr: bool = False) -> np.ndarray:
    """Some frames of an episode as uint8 [N, H, W, 3], red first; grey ones are spread, transparency is dropped.

    Args:
        images: all frames, encoded (JPEG, PNG, or whatever OpenCV reads), or a video.
        which: the frames that are wanted, N >= 1, in this order.
        size_px: H and W; a larger JPEG is decoded at a reduced scale, then resized by area. What is not square is
            stretched, as Octo and OpenVLA do. None keeps the stored size. A stored orientation (EXIF) is ignored.
        bgr: the channels were stored in the wrong order, and are swapped back.

    Raises:
        BadImageError: one cannot be decoded, or they differ in size and `size_px` is None.
    """
    if isinstance(images, Video):
        frames = images.decode(which, size_px)
        return np.ascontiguousarray(frames[..., ::-1]) if bgr else frames
    return _decode(images, which, size_px, bgr)


def content_digest(images: Images) -> bytes:
    """SHA-256 over the frames as they are stored."""
    if isinstance(images, Video):
        return images.digest()
    digest = hashlib.sha256()
    for image in images:
        digest.update(hashlib.sha256(image).digest())
    return digest.digest()
