"""A disk that fills up while a checkpoint is written: the last one stays good, and nothing is lost."""

import os
import subprocess

import pytest
from tiny_runs import bits, last_checkpoint

from whale.checkpoint import damage

# From step 3 on, the kernel lets no file of some ranks grow beyond 50 kB, as on a full disk.
FULL = """
import resource
from whale.run_log import RunLog

def _full(self, step, *rest, training=RunLog.training):
    training(self, step, *rest)
    if step == 3 and int(os.environ["RANK"]) in {ranks}:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

RunLog.training = _full
"""


@pytest.mark.parametrize(("zero", "full"), [
    (None, [0]), (1, [0, 1]), pytest.param(3, [1], marks=pytest.mark.slow),
])  # fmt: skip
def test_a_full_disk_stops_all_and_the_same_command_goes_on(tiny, launcher, train, tmp_path, zero, full):
    words = tiny.words("dynamics", tmp_path, engine__zero=zero, loop__save_every=2)
    running = launcher.start(*words, ranks=2, before=FULL.format(ranks=full))
    assert running.codes() == [2, 2], running.said()
    for number, rank in enumerate(running.ranks):
        assert f"step 4 could not be saved in {tmp_path / 'checkpoints'}" in rank.said()
        # One of them is the first to know; another that would fail too may still be writing then.
        assert "another process says why" in rank.said() or (number in full and "File too large" in rank.said())
        assert "the last complete checkpoint is step 2" in rank.said() and "make room on that disk" in rank.said()
    assert any("File too large" in running[number].said() for number in full)
    assert last_checkpoint(tmp_path).step == 2 and damage(last_checkpoint(tmp_path)) is None

    launcher.run(*words, ranks=2)
    assert bits(tmp_path) == bits(train("dynamics", 2, engine__zero=zero))
    assert not list(tmp_path.glob("checkpoints/.tmp-*"))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [None, 0, 1, 2, 3])
def test_a_disk_that_is_really_full(tiny, launcher, train, tmp_path, zero):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode()}")
    try:
        words = tiny.words("dynamics", disk / "run", engine__zero=zero, loop__save_every=1, loop__keep=1)
        running = launcher.start(*words, ranks=2, pause_at=3)
        running.until_paused()
        free, filler = os.statvfs(disk), disk / "filler"
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 100_000))
        assert running.go_on().codes()[0] == 2, running.said()
        assert "could not be saved" in running.said() and "No space left on device" in running.said()
        assert last_checkpoint(disk / "run").step in (1, 2) and damage(last_checkpoint(disk / "run")) is None
        filler.unlink()
        launcher.run(*words, ranks=2)
        assert bits(disk / "run") == bits(train("dynamics", 2, engine__zero=zero))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
