"""Started as a user starts it: by torchrun, with no compiler at hand; and nothing is left in shared memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launch import PATIENCE_SEC, free_port
from tiny_runs import bits

SHARED = Path("/dev/shm")


def left_in_shared_memory() -> set[str]:
    """Memory that DeepSpeed took for its own all-reduce, or torch for the tensors of a process that is gone.

    A file of no size is not counted: where SIGKILL hits torch between two system calls, it leaves such a name.
    """
    orphans = [path for path in SHARED.glob("torch_*") if not Path(f"/proc/{path.name.split('_')[1]}").exists()]
    return {path.name for path in [*SHARED.glob("deepspeed*"), *(path for path in orphans if path.stat().st_size)]}


def test_torchrun_without_a_compiler(tiny, train, tmp_path):
    """Two processes in interpreters of their own, which find no program: no c++, no ninja, not even git."""
    before = left_in_shared_memory()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--master-port", str(free_port()), "-m", "whale"]  # fmt: skip
    command += map(str, tiny.words("dynamics", tmp_path / "run", engine__zero=1))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DS_")}
    environment |= {"PATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SEC)
    assert ran.returncode == 0, ran.stderr
    assert "exported step 10" in ran.stdout
    assert bits(tmp_path / "run") == bits(train("dynamics", 2, engine__zero=1))
    assert left_in_shared_memory() <= before


def test_kills_leave_nothing_in_shared_memory(tiny, launcher, tmp_path):
    before = left_in_shared_memory()
    words = tiny.words("dynamics", tmp_path, engine__zero=2, data__workers=1)
    running = launcher.start(*words, ranks=2, pause_at=3)
    running.until_paused()
    running.kill()
    assert left_in_shared_memory() <= before


@pytest.mark.slow
@pytest.mark.parametrize("zero", [None, 1, 3])
def test_the_interpreter_ends_well_every_time(tiny, launcher, tmp_path, zero):
    for number in range(20):
        words = tiny.words("dynamics", tmp_path / str(number), engine__zero=zero, loop__steps=2, data__workers=1)
        launcher.run(*words, ranks=2, to_the_end=True)
