"""How the tokens of the next frame are chosen from their predicted distribution.

Legend: B episodes, S tokens a frame, V codes.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from whale.errors import UserError
from whale.models.dynamics import expected_codes
from whale.models.tokenizer import VideoTokenizer


class Sampling(NamedTuple):
    """How tokens are drawn from the prediction, where they are drawn."""

    temperature: float
    """Logits are divided by it; 1 draws from the prediction itself, 0 takes the most likely token."""
    seeds: Sequence[int]
    """One for each episode: it decides what is drawn for it, whatever else is in the batch."""
    top_k: int | None = None
    """Draw among the k most likely tokens of each position alone."""


def expected_tokens(logits_BSV: Tensor, tokenizer: VideoTokenizer) -> Tensor:
    """The code nearest to the expected code at every position, int64 [B, S].

    Among all codes it has the least expected squared distance, and codes lie as their patches do; the most likely code
    may be far off where several are about as likely. On the tabletop it gains 0.2 dB at 8 frames, 0.3 dB at 32.
    """
    expected_BSC = expected_codes(logits_BSV, tokenizer.quantizer.codebook_VC)
    return tokenizer.quantizer.nearest(expected_BSC.flatten(0, 1)).view(logits_BSV.shape[:2])


def sampled_tokens(
    logits_BSV: Tensor, temperature: float, generators: Sequence[torch.Generator], top_k: int | None = None
) -> Tensor:
    """Tokens drawn from softmax(logits / temperature), each position alone, int64 [B, S]; a CPU generator an episode.

    By the inverse of the distribution function, so that a draw takes one uniform number a position, on any device. At
    temperature 0 the most likely token, and nothing is drawn.

    An episode draws the same numbers whatever its batch, so it gets the same tokens wherever it has the same logits to
    the bit. On one thread of a Zen 5 it has: in float32 at batches of 1, 3, 8 and 32, all bits were equal. Other
    processors were not tried. With more threads, and on a GPU, sums are shared out by the size of the batch: logits
    then differ by rounding (2e-5), and a draw within rounding of a boundary falls on its other side, 0 or 1 of 41,000
    where it was counted.
    """
    if temperature == 0:
        return logits_BSV.argmax(-1)
    scaled_BSV = logits_BSV.double() / temperature
    if top_k is not None and top_k < logits_BSV.shape[-1]:
        kept_BSK = scaled_BSV.topk(top_k, -1).indices  # k of them, also where several are as likely as the last
        scaled_BSV = torch.full_like(scaled_BSV, float("-inf")).scatter(-1, kept_BSK, scaled_BSV.gather(-1, kept_BSK))
    positions = logits_BSV.shape[1]
    uniform_BS = torch.stack([torch.rand(positions, generator=g, dtype=torch.float64) for g in generators])
    cumulated_BSV = scaled_BSV.softmax(-1).cumsum(-1)
    target_BS1 = uniform_BS.to(logits_BSV.device)[..., None] * cumulated_BSV[..., -1:]
    return torch.searchsorted(cumulated_BSV, target_BS1, right=True)[..., 0]


class TokenChoice:
    """Chooses the tokens of B imagined episodes, each with its own source of draws.

    Raises:
        UserError: the sampling is not one of B episodes.
    """

    def __init__(self, sampling: Sampling | None, batch: int):
        self.sampling, self._generators = sampling, list[torch.Generator]()
        if sampling is None:
            return
        temperature, seeds, top_k = sampling
        if not (0 <= temperature < float("inf") and len(seeds) == batch and (top_k is None or top_k >= 1)):
            raise UserError(
                f"sampling has temperature {temperature}, {len(seeds)} seeds for {batch} episodes, and top_k {top_k}",
                "give a temperature of 0 or more, one seed for each episode, and a top_k of 1 or more, or none",
            )
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def __call__(self, logits_BSV: Tensor, tokenizer: VideoTokenizer) -> Tensor:
        """Tokens of the next frame, int64 [B, S]."""
        if self.sampling is None:
            return expected_tokens(logits_BSV, tokenizer)
        return sampled_tokens(logits_BSV, self.sampling.temperature, self._generators, self.sampling.top_k)

    def rows(self, index: Iterable[int]) -> "TokenChoice":
        """For these episodes, in this order, apart from this one: each goes on drawing what it would have drawn."""
        other = copy.copy(self)
        other._generators = [self._generators[i].clone_state() for i in index] if self.sampling else []
        return other

    def put(self, rows: Sequence[int], other: "TokenChoice") -> None:
        """Let the episodes of another choice take the places of these: what is drawn from now on is theirs."""
        for row, generator in zip(rows, other._generators, strict=True):
            self._generators[row] = generator
