"""A clip as the members of one webdataset sample, and back (FORMAT.md). Equal clips give equal bytes.

Only what `to_tar` writes is read: an entry whose header is not, byte for byte, that of a plain file of this format (a
link, a path, a pax record, an absurd size) is refused before its content is looked at. Nothing is ever extracted.
"""

import dataclasses
import io
import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from whale.actions import ActionStatus
from whale.clips.clip import FORMAT_VERSION, ActionType, Clip, ClipInfo, Source
from whale.errors import UserError

BLOCK_BYTES = 512
END_OF_TAR = bytes(2 * BLOCK_BYTES)
BODIES = ("frames.png", "tokens.npy")
"""The last member of a clip is one of these; those before it are its head."""

# Film strips of real frames, size over raw and encoding time of a frame (Pillow 13, zlib 1.2.13):
#               level 6           level 3           level 1           Z_RLE
# Bridge 64     0.761  0.64 ms    0.762  0.40 ms    0.767  0.33 ms    0.763  0.25 ms
# Franka 64     0.409  0.54 ms    0.423  0.28 ms    0.448  0.22 ms    0.504  0.20 ms
# Franka 128    0.380  2.6 ms     0.381  1.1 ms     0.400  0.85 ms    0.408  0.72 ms
# Franka 256    0.282  8.5 ms     0.277  3.5 ms     0.296  2.6 ms     0.322  2.4 ms
# Tabletop 64   0.041  0.09 ms    0.054  0.06 ms    0.056  0.06 ms    0.076  0.06 ms
# All decode at the same speed. Clips are kept and read for long: half the time of level 6 for nearly its size.
PNG_LEVEL = 3

_NAME = re.compile(rb"(\d{11,})\.(json|actions\.npy|flags\.npy|rewards\.npy|proprio\.npy|frames\.png|tokens\.npy)")


class Entry(NamedTuple):
    """One member of a clip: `raw[at : at + size]`, its tar header not included."""

    key: str
    extension: str
    at: int
    size: int


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


@lru_cache(maxsize=1024)
def _parse_npy_header(header: bytes) -> tuple[tuple[int, ...], np.dtype]:
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header))
    if fortran or dtype.hasobject:
        raise ValueError(f"an array of {dtype} in another order than the format's")
    return shape, dtype


def npy_layout(content: bytes) -> tuple[int, tuple[int, ...], np.dtype]:
    """Where an array's values begin in the content of an `.npy` member, their shape and dtype.

    Raises:
        ValueError: the content is not exactly one array of the first version of that format.
    """
    end = 10 + int.from_bytes(content[8:10], "little")
    if content[:8] != b"\x93NUMPY\x01\x00" or len(content) < end:
        raise ValueError("no header of an array")
    shape, dtype = _parse_npy_header(bytes(content[8:end]))
    if len(content) != end + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(content) - end} bytes do not hold {dtype} {shape}")
    return end, shape, dtype


def _from_npy(content: bytes) -> np.ndarray:
    at, shape, dtype = npy_layout(content)
    return np.frombuffer(content, dtype, offset=at).reshape(shape).copy()  # may be written, as torch wants it


def most_frames(height: int, width: int) -> int:
    """How many frames a clip may have, so that image readers still open its film strip."""
    return (Image.MAX_IMAGE_PIXELS or 0) // (height * width)


def film_strip(frames: np.ndarray) -> bytes:
    """T frames one below the other in one PNG: lossless, opened by any viewer, decoded in one go."""
    steps, height, width, _ = frames.shape
    if steps > (most := most_frames(height, width)):
        raise UserError(f"a clip of {steps} frames of {width} x {height} pixels is more than an image reader opens",
                        f"cut the episodes: set `clip_frames` to {most} at most")
    buffer = io.BytesIO()
    Image.fromarray(frames.reshape(steps * height, width, 3)).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def read_film_strip(content: bytes, steps: int) -> np.ndarray:
    """The frames in a PNG of `steps` frames, uint8 [T, H, W, 3]."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        strip = np.array(image)
    return strip.reshape(steps, len(strip) // steps, strip.shape[1], 3)


def _info_values(clip: Clip) -> dict:
    values = dataclasses.asdict(clip.info)
    values["action_type"] = clip.info.action_type.value
    values["action_status"] = [status.name.lower() for status in clip.info.action_status]
    return {"format_version": FORMAT_VERSION, "num_frames": clip.num_frames, **values}


def _info(values: dict) -> ClipInfo:
    values = {key: value for key, value in values.items() if key not in ("format_version", "num_frames")}
    values["action_type"] = ActionType(values["action_type"])
    values["action_status"] = tuple(ActionStatus[name.upper()] for name in values["action_status"])
    values["source"] = Source(**values["source"])
    return ClipInfo(**values)


def encode(clip: Clip) -> dict[str, bytes]:
    """Member contents by extension, in the order they are written."""
    members = {"json": json.dumps(_info_values(clip), sort_keys=True).encode(), "actions.npy": _npy(clip.actions)}
    members["flags.npy"] = _npy(np.stack([clip.is_first, clip.is_last, clip.is_terminal, clip.action_known], -1))
    if clip.rewards is not None:
        members["rewards.npy"] = _npy(clip.rewards)
    if clip.proprio is not None:
        members["proprio.npy"] = _npy(clip.proprio)
    if clip.frames is not None:
        members["frames.png"] = film_strip(clip.frames)
    else:
        assert clip.tokens is not None
        members["tokens.npy"] = _npy(clip.tokens)
    return members


def _decode(members: dict[str, bytes], with_frames: bool) -> Clip:
    values = json.loads(members["json"])
    if values["format_version"] != FORMAT_VERSION:
        raise ValueError(f"the clip has format version {values['format_version']}, this code reads {FORMAT_VERSION}")
    steps = values["num_frames"]
    frames = tokens = None
    if not with_frames:
        frames = np.zeros((steps, 0, 0, 3), np.uint8)
    elif "tokens.npy" in members:
        tokens = _from_npy(members["tokens.npy"])
    else:
        frames = read_film_strip(members["frames.png"], steps)
    flags = _from_npy(members["flags.npy"])
    optional = {name: _from_npy(members[f"{name}.npy"]) if f"{name}.npy" in members else None
                for name in ("rewards", "proprio")}
    clip = Clip(
        info=_info(values), frames=frames, tokens=tokens, actions=_from_npy(members["actions.npy"]),
        is_first=flags[:, 0], is_last=flags[:, 1], is_terminal=flags[:, 2], action_known=flags[:, 3], **optional,
    )
    if clip.num_frames != steps:
        raise ValueError(f"the clip says {steps} frames and holds {clip.num_frames}")
    return clip


def decode(members: dict[str, bytes], with_frames: bool = True) -> Clip:
    """The clip that `encode` was given.

    With `with_frames` False neither film strip nor tokens are read, and black frames of no size stand in for them: for
    passes over the numbers alone.

    Raises:
        ValueError: the members are of another format version, or not those of a clip.
    """
    try:
        return _decode(members, with_frames)
    except Exception as error:  # of bytes that anybody may have made, JSON, Pillow and NumPy raise whatever they like
        raise ValueError(f"no clip: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=4096)
def _numbers(size: int) -> tuple[bytes, bytes, int]:
    """What stands before and behind the checksum in the header of a file of `size` bytes, and the sum of all that."""
    if size >= 8**11:
        raise ValueError(f"a member of {size} bytes does not fit a tar")
    front = f"0000644\0{'0' * 7}\0{'0' * 7}\0{size:011o}\0{'0' * 11}\0".encode()
    rest = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
    return front, rest, sum(front) + sum(rest) + 8 * ord(" ")  # the checksum's own eight bytes count as spaces


def _tar_header(name: str, size: int) -> bytes:
    """The ustar header of a plain file, with mode 644 and modification time, user and group 0."""
    (front, rest, checksum), start = _numbers(size), name.encode()
    return start.ljust(100, b"\0") + front + f"{checksum + sum(start):06o}\0 ".encode() + rest


def to_tar(key: str, members: dict[str, bytes]) -> bytes:
    """The members as consecutive tar entries `<key>.<extension>`, without the end of the archive."""
    parts = []
    for extension, content in members.items():
        parts += [_tar_header(f"{key}.{extension}", len(content)), content, bytes(-len(content) % BLOCK_BYTES)]
    return b"".join(parts)


def entries(raw: bytes) -> Iterator[Entry]:
    """The tar entries in `raw`, which must be as `to_tar` writes them.

    Raises:
        ValueError: names the byte where they are not.
    """
    at = 0
    while at < len(raw):
        header = raw[at : at + BLOCK_BYTES]
        name, size = _NAME.fullmatch(header[:100].rstrip(b"\0")), header[124:135]
        if name is None or not size.isdigit() or header != _tar_header(name[0].decode(), int(size, 8)):
            raise ValueError(f"at its byte {at} is no entry of a clip")
        at += BLOCK_BYTES
        entry = Entry(name[1].decode(), name[2].decode(), at, int(size, 8))
        at += entry.size + -entry.size % BLOCK_BYTES
        if at > len(raw):
            raise ValueError(f"its member {entry.extension} is cut off")
        if any(raw[entry.at + entry.size : at]):
            raise ValueError(f"the padding of its member {entry.extension} is not empty")
        yield entry


def from_tar(raw: bytes) -> tuple[str, dict[str, bytes]]:
    """Key and members of the tar entries in `raw`, which all belong to one sample.

    Raises:
        ValueError: they are not as `to_tar` writes them, or have different keys.
    """
    found = list(entries(raw))
    if len(keys := {entry.key for entry in found}) != 1 or len({entry.extension for entry in found}) != len(found):
        raise ValueError(f"one clip expected, found {len(found)} members with the keys {sorted(keys)}")
    return keys.pop(), {entry.extension: raw[entry.at : entry.at + entry.size] for entry in found}
