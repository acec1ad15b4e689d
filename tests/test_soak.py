"""Ten thousand imagined steps leave memory and speed as they were."""

import pytest
from bench_soak import STEPS, soak, soak_figures


@pytest.mark.slow
def test_soak():
    figures, _ = soak_figures(STEPS)
    for figure in figures:
        assert figure.holds, figure


def test_a_short_soak_runs():
    found = soak(40)
    assert len(found["seconds"]) == 10 and list(found["resident_mb"]) == list(range(4, 41, 4))
