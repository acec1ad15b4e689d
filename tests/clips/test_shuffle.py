import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from whale.clips.shuffle import key_of, permute


@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection_and_the_same_for_ints_and_arrays(n, key):
    image = permute(np.arange(n, dtype=np.uint64), n, key)
    assert sorted(image.tolist()) == list(range(n))
    some = range(0, n, max(1, n // 7))
    assert [permute(i, n, key) for i in some] == [int(image[i]) for i in some]


def test_permute_does_not_change_between_releases():
    assert [permute(i, 10, key_of(1, 2, 3)) for i in range(10)] == [4, 9, 5, 3, 8, 2, 0, 1, 6, 7]
    assert permute(10**11 + 7, 10**12, 5) == 2_281_314_489


def test_every_place_of_a_small_domain_receives_every_element_equally_often():
    n, trials = 7, 7000
    counts = np.zeros((n, n))
    for key in range(trials):
        counts[np.arange(n), permute(np.arange(n, dtype=np.uint64), n, key_of(key)).astype(int)] += 1
    chi_square = ((counts - trials / n) ** 2 / (trials / n)).sum()
    assert chi_square < 80  # 36 degrees of freedom: 99.99 % of uniform shuffles lie below


def test_neighbouring_keys_give_unrelated_orders():
    a, b = (permute(np.arange(4096, dtype=np.uint64), 4096, key_of(0, epoch)).astype(float) for epoch in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.08
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.08
