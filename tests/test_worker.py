import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import multiprocessing, os, signal, time
from whale.worker import begin_loading

def work():
    time.sleep({before})
    begin_loading(0)
    time.sleep(600)

worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
print(worker.pid, flush=True)
time.sleep({after})
os.kill(os.getpid(), signal.SIGKILL)
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="tells a zombie from a living process by /proc")
@pytest.mark.parametrize(("before", "after"), [(0.3, 0.0), (0.0, 0.3)], ids=["still starting", "at work"])
def test_a_worker_goes_when_its_parent_is_killed(before, after):
    parent = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before, after=after)], stdout=subprocess.PIPE, check=False
    )
    assert parent.returncode == -signal.SIGKILL
    worker, start = int(parent.stdout), time.monotonic()
    while is_alive(worker) and time.monotonic() - start < 30:
        time.sleep(0.05)
    alive = is_alive(worker)
    if alive:
        os.kill(worker, signal.SIGKILL)
    assert not alive
