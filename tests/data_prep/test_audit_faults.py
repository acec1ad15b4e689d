"""Planted faults are found and called by their names; clean datasets raise no alarm."""

from collections import Counter

import pytest
from planted_faults import FAULTS, Fault, alarms, clean, is_found, look_at

GROUPS = 8
"""Each a test, so that they run side by side."""


@pytest.mark.parametrize("group", range(GROUPS))
def test_planted_faults_are_found_and_called_by_their_names(group):
    """The benchmark may miss one of them; here none may go unnoticed that is found today."""
    faults = FAULTS[group::GROUPS]
    assert [str(fault) for fault in faults if not is_found(fault, look_at(fault))] == []


@pytest.mark.parametrize("group", range(GROUPS // 2))
def test_clean_datasets_raise_no_alarm(group):
    worlds = clean()[group::GROUPS]  # half of them; the benchmark takes all
    found = {str(world): alarms(look_at(Fault("", "", lambda _: None, world=world))) for world in worlds}
    assert {world: one for world, one in found.items() if one} == {}


def test_enough_is_planted():
    kinds = Counter(fault.kind for fault in FAULTS)
    assert len(FAULTS) >= 50
    assert len(kinds) >= 12
    assert all(any(fault.kind == kind and not fault.in_memory for fault in FAULTS) for kind in kinds)
    assert len({str(fault) for fault in FAULTS}) == len(FAULTS)
