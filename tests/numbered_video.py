"""Videos whose frames show their number, so that any decoder's answer can be read off its pixels."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10
UNIT_SEC = Fraction(1, 1000)


def frame_of(number: int, height: int, width: int) -> np.ndarray:
    """A black or white column for each bit, below a texture that moves, uint8 [H, W, 3]."""
    bits = number >> np.arange(BITS) & 1
    columns = bits[np.arange(width) * BITS // width] * 255
    frame = np.broadcast_to(columns[None, :, None], (height, width, 3)).astype(np.uint8)
    rows, across = np.mgrid[: height // 4, :width]
    frame[: height // 4] = ((rows * 9 + across * 5 + number * 3) % 256)[..., None] * [1.0, 0.6, 0.3]
    return frame


def number_in(frame: np.ndarray) -> int:
    """What a decoded frame shows."""
    middles = ((np.arange(BITS) + 0.5) * frame.shape[1] / BITS).astype(int)
    return int(((frame[frame.shape[0] // 2 :, middles].mean((0, 2)) > 127) << np.arange(BITS)).sum())


def write_video(
    path: Path, numbers: Sequence[int], height: int = 48, width: int = 80, codec: str = "libx264", gop: int = 12,
    pixels: str = "yuv420p", options: dict[str, str] | None = None, times: Sequence[int] | None = None, rate: int = 20,
) -> None:
    """Frames that show `numbers`, at `times` (in ms; at an even rate when None)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = height, width, pixels, gop
        stream.codec_context.thread_count = 1  # several may give other bytes each time
        stream.time_base = stream.codec_context.time_base = UNIT_SEC
        for i, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(frame_of(number, height, width), format="rgb24")
            frame.pts, frame.time_base = (1000 * i // rate if times is None else times[i]), UNIT_SEC
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def join_videos(paths: Sequence[Path], joined: Path) -> list[float]:
    """One video after the other in one file, without encoding again; the time at which each starts, and the end."""
    joined.parent.mkdir(parents=True, exist_ok=True)
    starts = [0.0]
    with av.open(str(joined), "w") as target:
        out, shift = None, Fraction(0)
        for path in paths:
            with av.open(str(path)) as file:
                stream = file.streams.video[0]
                out = out or target.add_stream_from_template(stream)
                packets = [packet for packet in file.demux(stream) if packet.size]
                last = max(packet.pts + packet.duration for packet in packets) * stream.time_base
                for packet in packets:
                    packet.pts += int(shift / stream.time_base)
                    packet.dts += int(shift / stream.time_base)
                    packet.stream = out
                    target.mux(packet)
                shift += last
                starts.append(float(shift))
    return starts
