"""Ten thousand imagined steps leave memory and speed as they were."""

import pytest
from bench_soak import STEPS, soak_figures


@pytest.mark.slow
def test_soak():
    figures, _ = soak_figures(STEPS)
    for figure in figures:
        assert figure.holds, figure
