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


def key_of(*parts: Index) -> Index:
    """One 64-bit key from integers, or an array of them from uint64 arrays; every part and its place matter."""
    key: Any = 0
    for part in parts:
        key = _scramble(((key + 0x9E3779B97F4A7C15 & _MASK64) + (part & _MASK64)) & _MASK64)
    return key


def _round_keys(key: Index) -> list[Index]:
    return [key_of(key, turn) for turn in range(_ROUNDS)]


def _feistel(x: Index, half_bits: Index, round_keys: list[Index]) -> Index:
    low = (1 << half_bits) - 1
    left, right = x >> half_bits, x & low
    for key in round_keys:
        left, right = right, left ^ (_scramble(right ^ key) & low)
    return (left << half_bits) | right


def _permute_array(index: np.ndarray, n: np.ndarray, key: np.ndarray) -> np.ndarray:
    """`permute` of uint64 arrays [N], each element in a domain and under a key of its own."""
    half_bits = np.maximum(1, (np.frexp((n - 1).astype(np.float64))[1] + 1) // 2).astype(np.uint64)  # exact below 2^53
    keys = _round_keys(key)
    values = _feistel(index, half_bits, keys)
    outside = np.flatnonzero(values >= n)
    while len(outside):
        values[outside] = _feistel(values[outside], half_bits[outside], [one[outside] for one in keys])
        outside = outside[values[outside] >= n[outside]]
    return values


def permute(index: Index, n: Index, key: Index) -> Index:
    """The image of `index` under the bijection of [0, n) that `key` names.

    Args:
        index: an int, or a uint64 array, with values in [0, n).
        n: size of the domain, at least 1 and below 2^53; an int, or with an array an array too.
        key: any int, its low 64 bits count; or with an array a uint64 array.
    """
    if isinstance(index, np.ndarray):
        shaped = (np.broadcast_to(np.asarray(value, np.uint64), index.shape).ravel() for value in (index, n, key))
        return _permute_array(*shaped).reshape(index.shape)
    if not 0 <= index < n:
        raise ValueError(f"index {index} is outside [0, {n})")
    half_bits, keys = max(1, ((n - 1).bit_length() + 1) // 2), _round_keys(key)
    value = _feistel(index, half_bits, keys)
    while value >= n:
        value = _feistel(value, half_bits, keys)
    return value
