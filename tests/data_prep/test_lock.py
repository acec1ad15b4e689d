"""Locks between real processes."""

import signal
import subprocess
import sys

import pytest

from whale.data_prep.lock import FolderLock
from whale.errors import UserError

_HOLD = """
import sys
from pathlib import Path
from whale.data_prep.lock import FolderLock
with FolderLock(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])) as lock:
    print("held", lock.may_finish(), flush=True)
    sys.stdin.readline()
"""

_COUNT = """
import sys
from pathlib import Path
from whale.data_prep.lock import FolderLock
folder, counter = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(50):
    with FolderLock(folder, "same", int(sys.argv[3])) as lock:
        with lock.shared():
            counter.write_text(str(int(counter.read_text()) + 1))
"""


class Holder:
    def __init__(self, folder, purpose="p", task=0):
        command = [sys.executable, "-c", _HOLD, str(folder), purpose, str(task)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, **pipes)
        self.said = self.process.stdout.readline().split()

    def leave(self, code=0):
        self.process.communicate("\n", timeout=30)
        assert self.process.returncode == code

    def kill(self):
        self.process.kill()
        self.leave(-signal.SIGKILL)


def refusal(folder, purpose, task):
    with pytest.raises(UserError) as caught, FolderLock(folder, purpose, task):
        pass
    return str(caught.value)


def test_a_task_is_one_process_and_all_have_one_purpose(tmp_path):
    folder = tmp_path / "a" / "b"
    first = Holder(folder)
    assert first.said == ["held", "True"]
    assert f"at the same work in {folder} (task 0)" in refusal(folder, "p", 0)
    assert "other settings" in refusal(folder, "q", 1)
    with FolderLock(folder, "p", 1) as second:
        assert not second.may_finish()
        assert "other settings" in refusal_in_another_process(folder, "q", 2)
        first.leave()
        assert second.may_finish() and (folder / ".lock").exists()
    assert not list(folder.iterdir())


def refusal_in_another_process(folder, purpose, task):
    """In this process it would give up the locks that this process holds."""
    code = _HOLD.replace("import sys\n", "import sys; sys.tracebacklimit = 0\n", 1)
    ran = subprocess.run([sys.executable, "-c", code, str(folder), purpose, str(task)], capture_output=True, text=True)
    assert ran.returncode == 1
    return ran.stderr


def test_a_killed_process_holds_nothing_and_what_others_wrote_stays(tmp_path):
    Holder(tmp_path).kill()
    assert (tmp_path / ".lock").exists()
    with FolderLock(tmp_path, "another", 0):
        (tmp_path / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_two_hold_the_shared_lock_while_processes_come_and_go(tmp_path):
    """The file is removed and made again all the time: nobody may hold a lock on a removed one."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", _COUNT, str(tmp_path / "folder"), str(counter)]
    running = [subprocess.Popen([*command, str(task)]) for task in range(4)]
    assert [process.wait(timeout=60) for process in running] == [0] * 4
    assert counter.read_text() == "200"
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize("below", ["", "clips"])
def test_a_folder_that_cannot_be_made(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.* cannot be written to: .*\n.*another `out`"), \
            FolderLock(tmp_path / "file" / below, "p", 0):
        pass
