import signal
import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing, os, signal, time
from whale.worker import begin_loading

def work():
    time.sleep({before})
    begin_loading(0)
    time.sleep(120)

worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
print(worker.pid, flush=True)
time.sleep({after})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("before", "after"), [(0.3, 0.0), (0.0, 0.3)], ids=["still starting", "at work"])
def test_a_worker_goes_when_its_parent_is_killed(before, after):
    # The worker has the pipe too: reading it to its end waits for the worker.
    command = [sys.executable, "-c", SCRIPT.format(before=before, after=after)]
    parent = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=30)
    assert parent.returncode == -signal.SIGKILL
    assert int(parent.stdout) > 0
