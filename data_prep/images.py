"""Encoded frames to pixels. The only file that imports OpenCV, which decodes a JPEG at a half, a quarter or an eighth
of its size in a fraction of the time.
"""

import functools
import hashlib
import io
import os
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from PIL import Image

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


def _reduction(first: bytes, size_px: int | None) -> int:
    """The largest of 8, 4, 2 and 1 by which a JPEG can be reduced without becoming smaller than `size_px`."""
    try:
        with Image.open(io.BytesIO(first)) as image:
            smallest, is_jpeg = min(image.size), image.format == "JPEG"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 1
    if size_px is None or not is_jpeg:
        return 1
    return next((factor for factor in (8, 4, 2) if smallest >= size_px * factor), 1)


def resized(image: np.ndarray, size_px: int | None) -> np.ndarray:
    """An image [H, W, 3] made square: by area where it shrinks, linearly where it grows; None keeps its size."""
    if size_px is None or image.shape[:2] == (size_px, size_px):
        return image
    cv2 = _import_cv2()
    shrinks = min(image.shape[:2]) >= size_px
    return cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _decode(images: Sequence[bytes], which: Sequence[int], size_px: int | None, bgr: bool) -> np.ndarray:
    cv2 = _import_cv2()
    factor = _reduction(images[which[0]], size_px)
    reduced = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    flags = cv2.IMREAD_IGNORE_ORIENTATION | reduced.get(factor, cv2.IMREAD_COLOR)
    if not bgr:  # decoded straight into RGB, which saves a pass over the pixels
        flags = flags & ~cv2.IMREAD_COLOR | cv2.IMREAD_COLOR_RGB
    frames: np.ndarray | None = None
    for i, step in enumerate(which):
        try:
            image = cv2.imdecode(np.frombuffer(images[step], np.uint8), flags)
        except cv2.error:  # an empty one, or one of more than MAX_PIXELS
            image = None
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
