"""What temporal attention knows of frames: their angles, who sees whom, and a ring of the keys and values of past ones.

One rule says who sees whom: a frame at position p sees itself, and of those before it the ones after p - W.

Legend: B streams, each with its own clock; T frames of a pass, S places, N heads, H head dim, W width of the band, L
slots of the ring.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes the keys and values of a layer's new frames, [B, S, N, T, H], and returns those to attend to."""


@dataclass(frozen=True)
class Sight:
    """What temporal attention knows in one pass, the same in all layers."""

    turn: Tensor
    """Of `turns`, broadcast to [2, B, S, N, T, H / 2]."""
    mask: Tensor
    """Who sees whom: bool [T, L], or broadcast to [B, S, N, T, L]."""
    remember: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    """Layer, keys and values to `Remember`; None where frames are fed once."""

    def of_layer(self, layer: int) -> Remember | None:
        """What a layer does with the keys and values of its frames."""
        return partial(self.remember, layer) if self.remember else None


def band_mask(num_queries: int, num_keys: int, width: int, device: torch.device) -> Tensor:
    """Bool [T, L]: a query sees itself and the width - 1 keys before; the last key is the last query's own."""
    query_T1 = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    key_1L = torch.arange(num_keys, device=device)[None]
    return (key_1L <= query_T1) & (key_1L > query_T1 - width)


def turns(position: Tensor, head_dim: int) -> Tensor:
    """Cosines and sines of rotary position embedding (Su et al., 2021) at frames [...], float64 [2, ..., H / 2].

    In float32 the angle of frame 100,000 would be off by up to 0.004, and a key's angle to a query with it.
    """
    half = head_dim // 2
    frequency = 100.0 ** (-torch.arange(half, device=position.device, dtype=torch.float64) / half)
    angle = position.double()[..., None] * frequency
    return torch.stack([angle.cos(), angle.sin()])


def whole_clip(frames: int, band: int, head_dim: int, device: torch.device) -> Sight:
    """The sight of frames 0 to T - 1 among themselves."""
    return Sight(turns(torch.arange(frames, device=device), head_dim), band_mask(frames, frames, band, device))


class FrameCache:
    """Keys and values of the last frames of B streams, in the temporal layers of one transformer.

    Frame f of a stream lies in slot f % L, L = W + `back`, so that a copy of the frame `back` steps before the present
    one still finds its whole band. A slot holds one frame of all streams side by side, [L, B, S, N, H]: a frame is
    written as one block for each stream, in place, and read without a copy. Copies get slots of their own behind.
    """

    def __init__(self, batch: int, band: int, head_dim: int, device: torch.device, back: int = 0, copies: int = 0):
        self.band, self.head_dim, self.num_slots = band, head_dim, band + back
        self.position_BL = torch.full((batch, self.num_slots + copies), -1, device=device)
        """Frame in each slot, -1 where there is none that others may see."""
        self.layers: list[tuple[Tensor, Tensor]] = []
        """Keys and values of each layer, in the type that the layer computes in."""

    def begin(self, frames: int) -> Sight:
        """The sight of a pass over frames 0 to T - 1 of all streams among themselves, of which the last are kept."""
        clip = whole_clip(frames, self.band, self.head_dim, self.position_BL.device)
        position_BT = torch.arange(frames, device=self.position_BL.device).expand(len(self.position_BL), -1)
        return Sight(clip.turn, clip.mask, self._afresh(position_BT))

    def window(self, position_BT: Tensor) -> Sight:
        """The same of frames anywhere in their streams, one after the other; those before frame 0 are not there."""
        distance_BTL = position_BT[..., None] - position_BT[:, None]
        mask_BTL = (distance_BTL > 0) & (distance_BTL < self.band) & (position_BT >= 0)[:, None] | (distance_BTL == 0)
        turn = turns(position_BT, self.head_dim)[:, :, None, None]
        return Sight(turn, mask_BTL[:, None, None], self._afresh(position_BT))

    def _afresh(self, position_BT: Tensor) -> Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Forget everything; what keeps the last of these frames."""
        kept_BK = position_BT[:, -self.num_slots :]
        self.position_BL.fill_(-1).scatter_(1, kept_BK % self.num_slots, kept_BK.clamp_min(-1))
        last, index = slice(-kept_BK.shape[1], None), self._index(kept_BK % self.num_slots)

        def keep(layer: int, k_BSNTH: Tensor, v_BSNTH: Tensor) -> tuple[Tensor, Tensor]:
            self._write(slice(None), index, layer, k_BSNTH[..., last, :], v_BSNTH[..., last, :])
            return k_BSNTH, v_BSNTH

        return keep

    def _index(self, slot_BT: Tensor, first: int = 0) -> Tensor:
        """Where slots of the streams from `first` on lie in a ring of [L * B, ...]."""
        stream_B1 = torch.arange(first, first + len(slot_BT), device=slot_BT.device)[:, None]
        return (slot_BT * len(self.position_BL) + stream_B1).flatten()

    def enter(self, position_BT: Tensor, first: int = 0) -> Sight:
        """The sight of a pass over one new frame of each stream and copies of frames before it.

        Each sees what was there before it, and itself. Entering a frame again replaces it; copies leave no trace. These
        are the streams from the one numbered `first` on.
        """
        batch, frames = position_BT.shape
        streams, position_BL = slice(first, first + batch), self.position_BL[first : first + batch]
        slot_BT = position_BT % self.num_slots
        slot_BT[:, 1:] = torch.arange(self.num_slots, self.num_slots + frames - 1, device=slot_BT.device)
        position_BL.scatter_(1, slot_BT[:, :1], position_BT[:, :1])
        there_B1L, here_BT1 = position_BL[:, None], position_BT[..., None]
        mask_BTL = (there_B1L >= 0) & (there_B1L < here_BT1) & (there_B1L > here_BT1 - self.band)
        mask_BTL.scatter_(2, slot_BT[..., None], True)
        turn = turns(position_BT, self.head_dim)[:, :, None, None]
        return Sight(turn, mask_BTL[:, None, None], partial(self._write, streams, self._index(slot_BT, first)))

    def _layer(self, layer: int, k_BSNTH: Tensor, v_BSNTH: Tensor) -> tuple[Tensor, Tensor]:
        if layer == len(self.layers):
            _, places, heads, _, width = k_BSNTH.shape
            shape = (*self.position_BL.mT.shape, places, heads, width)
            self.layers.append((k_BSNTH.new_zeros(shape), v_BSNTH.new_zeros(shape)))
        return self.layers[layer]

    def _write(
        self, streams: slice, index: Tensor, layer: int, k_BSNTH: Tensor, v_BSNTH: Tensor
    ) -> tuple[Tensor, Tensor]:
        rings = self._layer(layer, k_BSNTH, v_BSNTH)
        for ring_LBSNH, x_BSNTH in zip(rings, (k_BSNTH, v_BSNTH), strict=True):
            ring_LBSNH.flatten(0, 1).index_copy_(0, index, x_BSNTH.movedim(3, 1).flatten(0, 1))
        k_BSNLH, v_BSNLH = (ring_LBSNH[:, streams].permute(1, 2, 3, 0, 4) for ring_LBSNH in rings)
        return k_BSNLH, v_BSNLH

    def rows(self, index: Tensor) -> "FrameCache":
        """A cache of these streams, in this order, apart from this one."""
        batch, slots = len(index), self.position_BL.shape[1]
        device, back = index.device, self.num_slots - self.band
        other = FrameCache(batch, self.band, self.head_dim, device, back, slots - self.num_slots)
        other.position_BL = self.position_BL[index]
        other.layers = [(k_LBSNH[:, index], v_LBSNH[:, index]) for k_LBSNH, v_LBSNH in self.layers]
        return other

    def put(self, index: Tensor, other: "FrameCache") -> None:
        """Let the streams of another cache take the places of these; all others stay as they are."""
        self.position_BL[index] = other.position_BL
        for layer, theirs in enumerate(other.layers):
            mine = self._layer(layer, *(new_LBSNH.permute(1, 2, 3, 0, 4) for new_LBSNH in theirs))
            for ring_LBSNH, new_LBSNH in zip(mine, theirs, strict=True):
                ring_LBSNH[:, index] = new_LBSNH
