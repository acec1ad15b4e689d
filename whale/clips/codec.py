"""A clip as the members of one webdataset sample, and back (FORMAT.md). Equal clips give equal bytes.

Tar headers are made and parsed here: a sample is a run of (512-byte ustar header, content padded to 512), so a clip
read by one `pread` is taken apart in memory.
"""

import dataclasses
import io
import json
import tarfile

import numpy as np
from PIL import Image

from whale.actions import ActionStatus
from whale.clips.clip import FORMAT_VERSION, ActionType, Clip, ClipInfo, Source

BLOCK_BYTES = 512
END_OF_TAR = bytes(2 * BLOCK_BYTES)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _from_npy(content: bytes) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)


def _film_strip(frames: np.ndarray) -> bytes:
    """T frames one below the other in one PNG: lossless, opened by any viewer, decoded in one go."""
    steps, height, width, _ = frames.shape
    buffer = io.BytesIO()
    Image.fromarray(frames.reshape(steps * height, width, 3)).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


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
    members = {"json": json.dumps(_info_values(clip), sort_keys=True).encode()}
    if clip.frames is not None:
        members["frames.png"] = _film_strip(clip.frames)
    else:
        assert clip.tokens is not None
        members["tokens.npy"] = _npy(clip.tokens)
    members["actions.npy"] = _npy(clip.actions)
    members["flags.npy"] = _npy(np.stack([clip.is_first, clip.is_last, clip.is_terminal, clip.action_known], -1))
    if clip.rewards is not None:
        members["rewards.npy"] = _npy(clip.rewards)
    if clip.proprio is not None:
        members["proprio.npy"] = _npy(clip.proprio)
    return members


def decode(members: dict[str, bytes], with_frames: bool = True) -> Clip:
    """The clip that `encode` was given.

    With `with_frames` False the film strip is not decoded and black frames of no size stand in for it: for passes over
    the numbers alone.

    Raises:
        ValueError: the members are of another format version or disagree with one another.
        KeyError: a member is missing.
    """
    values = json.loads(members["json"])
    if values["format_version"] != FORMAT_VERSION:
        raise ValueError(f"the clip has format version {values['format_version']}, this code reads {FORMAT_VERSION}")
    steps = values["num_frames"]
    frames = tokens = None
    if "tokens.npy" in members:
        tokens = _from_npy(members["tokens.npy"])
    elif with_frames:
        with Image.open(io.BytesIO(members["frames.png"])) as image:
            strip = np.array(image)  # a copy that may be written, as torch wants it
        frames = strip.reshape(steps, len(strip) // steps, strip.shape[1], 3)
    else:
        frames = np.zeros((steps, 0, 0, 3), np.uint8)
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


def to_tar(key: str, members: dict[str, bytes]) -> bytes:
    """The members as consecutive tar entries `<key>.<extension>`, without the end of the archive."""
    parts = []
    for extension, content in members.items():
        header = tarfile.TarInfo(f"{key}.{extension}")  # mtime, uid and gid are 0 and owner names empty by default
        header.size = len(content)
        parts += [header.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % BLOCK_BYTES)]
    return b"".join(parts)


def from_tar(raw: bytes) -> tuple[str, dict[str, bytes]]:
    """Key and members of the tar entries in `raw`, which all belong to one sample.

    Raises:
        ValueError: a header's checksum is wrong, an entry is cut off, or the entries have different keys.
    """
    members, keys, at = {}, set(), 0
    while at < len(raw):
        try:
            header = tarfile.TarInfo.frombuf(raw[at : at + BLOCK_BYTES], "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise ValueError(f"no tar header at byte {at} of the clip: {error}") from None
        at += BLOCK_BYTES
        if at + header.size > len(raw):
            raise ValueError(f"member {header.name} is cut off")
        key, _, extension = header.name.partition(".")
        keys.add(key)
        members[extension] = raw[at : at + header.size]
        at += header.size + -header.size % BLOCK_BYTES
    if len(keys) != 1:
        raise ValueError(f"one clip expected, found the keys {sorted(keys)}")
    return keys.pop(), members
