import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whale.clips.shuffle import key_of, permute


@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection_and_the_same_for_ints_and_arrays(n, key):
    image = permute(np.arange(n, dtype=np.uint64), n, key)
    assert sorted(image.tolist()) == list(range(n))
    some = range(0, n, max(1, n // 7))
    assert [permute(i, n, key) for i in some] == [int(image[i]) for i in some]


def test_every_element_of_an_array_may_have_a_domain_and_a_key_of_its_own():
    n = np.array([1, 2, 3, 64, 65, 1000, 2**40 + 1], np.uint64)
    index, keys = n // np.uint64(2), np.arange(7, dtype=np.uint64) * np.uint64(2**61 + 3)
    together = permute(index, n, keys)
    assert together.tolist() == [permute(int(i), int(m), int(k)) for i, m, k in zip(index, n, keys, strict=True)]
    assert (index == np.array([0, 1, 1, 32, 32, 500, 2**39], np.uint64)).all()
    with pytest.raises(ValueError, match="outside"):
        permute(5, 5, 0)


def test_permute_does_not_change_between_releases():
    assert [permute(i, 10, key_of(1, 2, 3)) for i in range(10)] == [4, 9, 5, 3, 8, 2, 0, 1, 6, 7]
    assert permute(10**11 + 7, 10**12, 5) == 2_281_314_489


def test_every_place_of_a_small_domain_receives_every_element_equally_often():
    n, trials = 7, 7000
    counts = np.zeros((n, n))
    index = np.tile(np.arange(n, dtype=np.uint64), trials)
    keys = np.repeat(np.array([key_of(key) for key in range(trials)], np.uint64), n)
    np.add.at(counts, (index.astype(int), permute(index, n, keys).astype(int)), 1)
    chi_square = ((counts - trials / n) ** 2 / (trials / n)).sum()
    assert chi_square < 80  # 36 degrees of freedom: 99.99 % of uniform shuffles lie below


def test_neighbouring_keys_give_unrelated_orders():
    a, b = (permute(np.arange(4096, dtype=np.uint64), 4096, key_of(0, epoch)).astype(float) for epoch in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.08
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.08
