"""A shuffle that is computed one element at a time: a keyed bijection on [0, n), in pure 64-bit integer arithmetic.

Any position of any epoch's order is found in O(1), without an array of n entries, and the order does not depend on a
library's random generator. A balanced Feistel network permutes the smallest domain 4^h >= n; values outside [0, n) are
walked on until they fall inside ("cycle walking": Black and Rogaway 2002, fewer than four rounds on average).
"""

from typing import TypeVar

import numpy as np

_MASK64 = (1 << 64) - 1
_ROUNDS = 8

Index = TypeVar("Index", int, np.ndarray)


def _scramble(x: Index) -> Index:
    """The splitmix64 finaliser (Steele et al. 2014); wraps at 64 bits for ints and uint64 arrays alike."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK64
    return x ^ (x >> 31)


def key_of(*parts: int) -> int:
    """One 64-bit key from integers; every part and its place matter."""
    key = 0
    for part in parts:
        key = _scramble((key + 0x9E3779B97F4A7C15 + (part & _MASK64)) & _MASK64)
    return key


def _feistel(x: Index, half_bits: int, key: int) -> Index:
    low = (1 << half_bits) - 1
    left, right = x >> half_bits, x & low
    for turn in range(_ROUNDS):
        left, right = right, left ^ (_scramble(right ^ key_of(key, turn)) & low)
    return (left << half_bits) | right


def permute(index: Index, n: int, key: int) -> Index:
    """The image of `index` under the bijection of [0, n) that `key` names.

    Args:
        index: an int, or a uint64 array of any shape, with values in [0, n).
        n: size of the domain, at least 1.
        key: any int; its low 64 bits count.
    """
    half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
    if isinstance(index, np.ndarray):
        values = _feistel(index.astype(np.uint64), half_bits, key)
        while (outside := values >= n).any():
            values[outside] = _feistel(values[outside], half_bits, key)
        return values
    if not 0 <= index < n:
        raise ValueError(f"index {index} is outside [0, {n})")
    value = _feistel(index, half_bits, key)
    while value >= n:
        value = _feistel(value, half_bits, key)
    return value
