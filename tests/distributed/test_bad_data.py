"""A number that is not finite, in a clip that one process alone meets, stops all of them before the update."""

import pytest
from tiny_clips import spoil
from tiny_runs import losses

from whale.checkpoint_folder import find_checkpoints


@pytest.mark.parametrize("zero", [None, 2])
def test_all_processes_stop_before_the_update(tiny, launcher, tmp_path, zero):
    key = spoil(tmp_path / "tokens", tiny.folder / "tokens", 7, "actions")
    words = tiny.words("dynamics", tmp_path / "run", engine__zero=zero, loop__save_every=1)
    source = f"[{{folder: {tmp_path / 'tokens'}}}]"
    running = launcher.start(*words, f"data.sources={source}", ranks=2)
    codes = running.codes()
    assert 2 in codes and set(codes) <= {2, 3}
    said = running[codes.index(2)].said()
    assert f"clip {key} in {tmp_path / 'tokens'}" in said and "is not a finite number" in said, said
    done = len(losses(tmp_path / "run"))
    assert done < 4  # the first 14 samples are each clip once
    assert all(checkpoint.step <= done for checkpoint in find_checkpoints(tmp_path / "run/checkpoints"))
