"""A batch system asks a conversion to stop: it does so at once, says so, and the next start goes on."""

import os
import signal
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize(("point", "workers", "number"), [
    ("notes/00001.json", 1, signal.SIGTERM), ("train-00001-000.tar", 2, signal.SIGUSR1),
    ("stats.json", 1, signal.SIGTERM),
])  # fmt: skip
def test_a_signal_ends_a_conversion_and_the_same_command_goes_on(
    start, convert, settings, clips, bytes_of, tmp_path, point, workers, number
):
    out = tmp_path / "out"
    running = start("convert", before=point, **settings, out=out, workers=workers)
    begin = time.monotonic()
    running.process.send_signal(number)
    said = running.process.communicate(timeout=60)[0]
    assert running.process.returncode == 75, said
    assert f"stopped by {number.name}; the same command goes on" in said and "Traceback" not in said
    assert time.monotonic() - begin < 10 and not (out / "manifest.json").exists()
    convert(out)
    assert bytes_of(out) == bytes_of(clips)


@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_that_is_killed_is_an_error_with_a_remedy(start, settings, tmp_path, which):
    """At once: the other worker may have hours of work left. One of the two is paused, the other is or will be idle."""
    running = start("convert", before="train-00001-000.tar", **settings, out=tmp_path / "out", workers=2)
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    workers = [int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[which], signal.SIGKILL)
    said = running.process.communicate(timeout=60)[0]
    assert running.process.returncode == 2, said
    assert "a worker process was killed" in said and "remedy: use fewer `workers`" in said and "Traceback" not in said
