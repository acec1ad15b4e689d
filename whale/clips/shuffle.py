"""A shuffle that is computed one element at a time: a keyed bijection on [0, n), in pure 64-bit integer arithmetic.

Any position of any epoch's order is found in O(1), without an array of n entries, and the order does not depend on a
library's random generator. A balanced Feistel network permutes the smallest domain 4^h >= n; values outside [0, n) are
walked on until they fall inside ("cycle walking": Black and Rogaway 2002, fewer than four rounds on average).
"""

from typing import Any, TypeVar

import numpy as np

_MASK64 = (1 << 64) - 1
_ROUNDS = 8

Index = TypeVar("Index", int, np.ndarray)


def _scramble(x: Index) -> Index:
    """The splitmix64 finaliser (Steele et al. 2014); wraps at 64 bits for ints and uint64 arrays alike."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK64
    return x ^ (x >> 31)


def key_of(*parts: int | np.ndarray) -> Any:
    """One 64-bit key from integers, or uint64 [N] where a part is such an array; every part and its place matter."""
    key: Any = 0
    for part in parts:
        key = _scramble(((key + 0x9E3779B97F4A7C15 & _MASK64) + (part & _MASK64)) & _MASK64)
    return key


def _feistel(x: np.ndarray, half_bits: np.ndarray, round_keys: list[np.ndarray]) -> np.ndarray:
    low = (1 << half_bits) - 1
    left, right = x >> half_bits, x & low
    for key in round_keys:
        left, right = right, left ^ (_scramble(right ^ key) & low)
    return (left << half_bits) | right


def permute(index: Index, n: int | np.ndarray, key: int | np.ndarray) -> Index:
    """The image of `index` under the bijection of [0, n) that `key` names.

    Args:
        index: an int, or a uint64 array [N], with values in [0, n).
        n: size of the domain, at least 1 and below 2^53; an int, or an array [N] too.
        key: any int, its low 64 bits count; or a uint64 array [N].
    """
    if isinstance(index, int):
        if not 0 <= index < n:
            raise ValueError(f"index {index} is outside [0, {n})")
        return int(permute(np.array([index], np.uint64), n, key)[0])
    sizes = np.broadcast_to(np.asarray(n, np.uint64), index.shape)
    half_bits = np.maximum(1, (np.frexp((sizes - 1).astype(np.float64))[1] + 1) // 2).astype(np.uint64)
    keys = [np.broadcast_to(np.asarray(key_of(key, turn), np.uint64), index.shape) for turn in range(_ROUNDS)]
    values = _feistel(index, half_bits, keys)
    while len(outside := np.flatnonzero(values >= sizes)):
        values[outside] = _feistel(values[outside], half_bits[outside], [one[outside] for one in keys])
    return values
