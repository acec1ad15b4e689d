"""A run whose validation fails what was asked of it: saved, and ended alike by all processes."""

import json

import pytest
from tiny_runs import last_checkpoint


@pytest.mark.parametrize("zero", [None, 2])
def test_all_processes_end_with_the_verdict(tiny, launcher, tmp_path, zero):
    run = tmp_path / "run"
    running = launcher.start(
        *tiny.words("dynamics", run, engine__zero=zero, validation__min_action_following=50.0), ranks=2
    )
    assert running.codes() == [2, 2], running.said()  # and not 75, with which a job is queued again
    assert all("action_following at step 5 is" in rank.said() for rank in running.ranks)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "failed" and status["message"].startswith("action_following at step 5 is")
    assert last_checkpoint(run).step == 5 and not (run / "export").exists()
