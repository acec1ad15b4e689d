"""The order of training data: a pure function of (seed, position), whatever the number of ranks and workers.

Positions are cut into blocks. Every block holds the same number of draws from each source (its share of the weights, by
largest remainder), in an order of its own. The i-th draw from a source is element i mod N of the source's epoch
i div N, and every epoch of a source is a permutation of its N clips: each exactly once. So where any position lies is
known in O(1), and with one source an epoch is exactly its N clips.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from whale.clips.shuffle import key_of, permute
from whale.errors import UserError

BLOCK = 1024


def block_counts(weights: Sequence[float]) -> np.ndarray:
    """Draws from each source in a block, int64, summing to BLOCK: largest remainder, ties to the earlier source.

    Raises:
        UserError: a weight is not positive, or so small that its source would never be drawn.
    """
    shares = np.asarray(weights, np.float64)
    if (shares <= 0).any() or not np.isfinite(shares).all():
        raise UserError(f"the weights {list(weights)} are not all positive", "leave out sources not to be used")
    exact = shares / shares.sum() * BLOCK
    counts = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - counts), kind="stable")
    counts[by_remainder[: BLOCK - counts.sum()]] += 1
    if (counts == 0).any():
        raise UserError(
            f"the weights {list(weights)} give source {int(counts.argmin())} less than one draw in {BLOCK}",
            "raise that weight, or leave the source out",
        )
    return counts


class Mixture:
    """Which clip of which source stands at each position."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int):
        self.sizes, self.seed = list(sizes), seed
        self.counts = block_counts(weights)
        self._layout = lru_cache(maxsize=8)(self._make_layout)

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "_layout"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._layout = lru_cache(maxsize=8)(self._make_layout)

    def _make_layout(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Source of every slot of a block, and how many slots before it have the same source."""
        slots = permute(np.arange(BLOCK, dtype=np.uint64), BLOCK, key_of(self.seed, 1, block))
        sources = np.searchsorted(np.cumsum(self.counts), slots, side="right")
        rank = np.zeros(BLOCK, np.int64)
        for source in range(len(self.sizes)):
            rank[sources == source] = np.arange(self.counts[source])
        return sources, rank

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source, and clip in it, at global positions >= 0: int64 [N] each."""
        blocks, slots = np.divmod(positions, BLOCK)
        sources, rank = np.empty_like(positions), np.empty_like(positions)
        for block in np.unique(blocks).tolist():
            here = blocks == block
            sources[here], rank[here] = (values[slots[here]] for values in self._layout(block))
        sizes = np.array(self.sizes)[sources]
        epochs, index = np.divmod(blocks * self.counts[sources] + rank, sizes)
        keys = key_of(self.seed, 2, sources.astype(np.uint64), epochs.astype(np.uint64))
        return sources, permute(index.astype(np.uint64), sizes.astype(np.uint64), keys).astype(np.int64)

    def offset(self, positions: np.ndarray, choices: np.ndarray) -> np.ndarray:
        """Numbers in [0, choices) for positions, int64 [N]: where their windows start in longer clips."""
        return (key_of(self.seed, 3, positions.astype(np.uint64)) % choices.astype(np.uint64)).astype(np.int64)
