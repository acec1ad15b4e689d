"""Frames of a video file by their number: the same pixels from decord and from PyAV, and never those of another frame.

decord seeks and skips by counting from a key frame, which goes wrong where GOPs are open or the rate varies, and it
knows no AV1. Every frame from the first on it gives rightly: that is all it does here, and for h264 alone, where its
pixels are PyAV's to the bit. PyAV does the rest, as fast: it finds a frame by its time stamp.

Frames are decoded at full size and resized as images are: what decord scales while decoding it does not scale by area.
"""

import contextlib
import ctypes
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whale.data_prep.images import BadImageError, resized

BATCH = 32
"""Frames that decord gives at a time; bounds the memory."""


@dataclass(frozen=True, eq=False)
class Container:
    """What is in a video file; time stamps are int64, rising, in units of `unit_sec`."""

    codec: str
    fps: float
    """Frames per second, on average over the time stamps."""
    height: int
    width: int
    unit_sec: float
    times: np.ndarray
    """Of every frame."""
    keys: np.ndarray
    """Of those that decode by themselves."""


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[Any, Any]]:
    """The file and its video stream, decoded by this thread alone: workers are processes."""
    import av

    try:
        with av.open(path) as file:
            stream = file.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            yield file, stream
    except (av.FFmpegError, IndexError) as error:
        raise BadImageError(f"{path} is damaged, or no video: {error}") from None


@functools.lru_cache(maxsize=16)
def _read_container(path: str, _size: int, _changed_ns: int) -> Container:
    with _opened(path) as (file, stream):
        packets = [one for one in file.demux(stream) if one.size and not one.is_discard]
        times, keys = (np.array(sorted({one.pts for one in some if one.pts is not None}), np.int64)
                       for some in (packets, [one for one in packets if one.is_keyframe]))
        if not len(keys) or len(times) != len(packets):
            raise BadImageError(f"{path}: {len(packets)} frames, {len(times)} time stamps, {len(keys)} key frames")
        unit_sec, codec = float(stream.time_base), stream.codec_context
        fps = float((len(times) - 1) / ((times[-1] - times[0]) * unit_sec)) if len(times) > 1 else 0.0
        name = "av1" if codec.name == "libdav1d" else codec.name
        return Container(name, round(fps, 3), codec.height, codec.width, unit_sec, times, keys)


def container_info(path: str) -> Container:
    """What is in a local video file, read from all its packets, not from its header.

    Raises:
        BadImageError: it is missing, damaged, or no video.
    """
    try:
        found = Path(path).stat()
    except OSError:
        raise BadImageError(f"{path} is missing") from None
    return _read_container(path, found.st_size, found.st_mtime_ns)


def _seek(file: Any, stream: Any, found: Container, time: int) -> None:
    """Go to the last key frame up to a time: from there on every frame that is not earlier than it decodes."""
    for start in (found.keys[found.keys <= time][-1], found.times[0]):
        file.seek(int(start), stream=stream)
        # A seek goes by decoding time, so it may end behind the key frame; then everything is decoded.
        if next(file.demux(stream)).pts == start:
            break
    file.seek(int(start), stream=stream)


def _import_decord() -> Any:
    # It asks for its libraries to serve the whole process. Its zlib is an old one, with which no library that is loaded
    # later decodes PNG images any more (OpenCV, TensorFlow): so it is kept to itself.
    everywhere = ctypes.RTLD_GLOBAL
    ctypes.RTLD_GLOBAL = ctypes.RTLD_LOCAL  # type: ignore[misc]
    try:
        import decord
    finally:
        ctypes.RTLD_GLOBAL = everywhere  # type: ignore[misc]
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def by_decord(path: str, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames with these numbers, which are 0, 1, 2 and so on.

    Raises:
        RuntimeError: decord cannot open it, or counts otherwise than the file.
    """
    decord = _import_decord()
    try:
        reader = decord.VideoReader(path, num_threads=1)
        if len(reader) != len(container_info(path).times):
            raise RuntimeError(f"decord counts {len(reader)} frames in {path}")
        for start in range(0, len(wanted), BATCH):
            yield from reader.get_batch(list(wanted[start : start + BATCH])).asnumpy()
    except decord.DECORDError as error:
        raise RuntimeError(f"decord cannot read {path}") from error


def by_av(path: str, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames with these numbers (rising), found by their time stamps.

    Raises:
        BadImageError: one cannot be decoded.
    """
    from av.video.reformatter import VideoReformatter

    found = container_info(path)
    awaited = found.times[list(wanted)].tolist()
    with _opened(path) as (file, stream):
        _seek(file, stream, found, awaited[0])
        reformatter = VideoReformatter()  # one for all frames: making it costs as much as decoding one
        for frame in file.decode(stream):
            if frame.pts == awaited[0]:
                yield reformatter.reformat(frame, format="rgb24").to_ndarray()
                awaited.pop(0)
            if not awaited or frame.pts > awaited[0]:
                break
    if awaited:
        raise BadImageError(f"{path}: the frame at {awaited[0] * found.unit_sec:.3f} s cannot be decoded")


@dataclass(frozen=True)
class VideoFrames:
    """An episode's frames in a local video file."""

    path: str
    first: int
    """Number in the file of the first one."""
    count: int

    def __len__(self) -> int:
        return self.count

    def decode(self, which: Sequence[int], size_px: int | None) -> np.ndarray:
        """Some frames, uint8 [N, H, W, 3], red first, in the order asked for; made square as images are.

        Raises:
            BadImageError: the file has fewer frames, or one of these cannot be decoded.
        """
        found = len(container_info(self.path).times)
        if self.first + self.count > found:
            last = self.first + self.count - 1
            raise BadImageError(f"{self.path} has {found} frames, needed are {self.first} to {last}")
        numbers = np.arange(self.first, self.first + self.count)[list(which)]
        wanted, place = np.unique(numbers, return_inverse=True)
        frames = np.stack(self._decode(wanted.tolist(), size_px))
        return frames if np.array_equal(numbers, wanted) else frames[place]

    def _decode(self, wanted: list[int], size_px: int | None) -> list[np.ndarray]:
        if container_info(self.path).codec == "h264" and wanted == list(range(len(wanted))):
            with contextlib.suppress(RuntimeError):  # what PyAV cannot read either is told by it
                return [resized(frame, size_px) for frame in by_decord(self.path, wanted)]
        return [resized(frame, size_px) for frame in by_av(self.path, wanted)]

    def digest(self) -> bytes:
        """SHA-256 over the encoded packets of these frames, in decoding order.

        It costs what reading these packets costs, and is the same wherever they were copied to without being encoded
        again, as when LeRobot joins the videos of several episodes.

        Raises:
            BadImageError: the file is missing, damaged, or no video.
        """
        found = container_info(self.path)
        times = found.times[self.first : self.first + self.count]
        digest = hashlib.sha256()
        with _opened(self.path) as (file, stream):
            _seek(file, stream, found, int(times[0]))
            for packet in file.demux(stream):
                if packet.dts is None or packet.dts > times[-1]:
                    break
                if packet.pts is not None and times[0] <= packet.pts <= times[-1]:
                    digest.update(hashlib.sha256(bytes(packet)).digest())
        return digest.digest()


def episode_frames(
    path: str, rows: int, start_sec: float = 0.0, stop_sec: float = float("inf")
) -> tuple[VideoFrames, dict[str, Any]]:
    """The frames of an episode with `rows` steps in a video, which may hold others; what its metadata is to say of it.

    Where there are more frames than rows, row t shows frame t, and the last ones are left out.

    Args:
        path: a local file.
        rows: steps of the episode.
        start_sec: its time in the file, counted from the first frame; half a frame early or late is on time.
        stop_sec: where the next episode starts.

    Raises:
        BadImageError: it has fewer frames than rows, or the file is missing, damaged, or no video.
    """
    found = container_info(path)
    margin_sec = 0.5 / found.fps if found.fps else 0.0
    seconds = (found.times - found.times[0]) * found.unit_sec + margin_sec
    first, stop = (int(place) for place in np.searchsorted(seconds, (start_sec, stop_sec)))
    if stop - first < rows:
        raise BadImageError(f"{path} has {stop - first} frames for {rows} rows")
    told = {"video_fps": found.fps, "video_codec": found.codec, "video_frames": stop - first, "rows": rows}
    return VideoFrames(path, first, rows), told
