"""Who may write in a folder of clips: locks on single bytes of the file `.lock` in it.

POSIX record locks hold across the nodes of a shared file system, and end with their process, however it ends. They
belong to a process, which loses all of them when it closes any descriptor of the file: so each task opens it once, in
its main process; worker processes never do.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from whale.errors import UserError

_SHARED, _FINISH, _PRESENT, _TASKS = range(4)
"""The bytes: what all tasks write; the finishing; who is at work, held by all together; task k is byte _TASKS + k."""


class FolderLock:
    """One task at work in a folder, as a context manager.

    All that are at work in a folder at the same time have the same `purpose` (settings and number of tasks): whatever
    two of them both write is the same bytes. The last to leave removes the file.

    Raises:
        UserError: on entering: another process does this task or has another purpose, the folder cannot be written
            to, or there are no locks here.
    """

    def __init__(self, folder: Path, purpose: str, task: int):
        self._folder, self._path = folder, folder / ".lock"
        self._purpose, self._task = purpose.encode(), task
        self._descriptor = -1

    def _lock(self, how: int, byte: int) -> bool:
        """Take or give back one byte; False when another process has it, and `how` does not wait."""
        try:
            fcntl.lockf(self._descriptor, how, 1, byte)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            problem = f"{self._folder} cannot be locked: {error.strerror}"
            raise UserError(problem, "write to a file system with locks (Lustre: one mounted with `flock`)") from None
        return True

    def _try(self, byte: int) -> bool:
        return self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, byte)

    def _open(self) -> None:
        """Open the file and hold its shared byte."""
        while True:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                problem = f"{self._folder} cannot be written to: {error.strerror}"
                raise UserError(problem, "choose another `out`, or ask for the right to write there") from None
            self._lock(fcntl.LOCK_EX, _SHARED)
            if os.fstat(self._descriptor).st_nlink:
                return
            os.close(self._descriptor)  # its last holder removed it meanwhile

    def _join(self) -> None:
        """Become one of those at work."""
        if self._try(_PRESENT):  # nobody else is
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, self._purpose, 0)
        self._lock(fcntl.LOCK_SH, _PRESENT)
        remedy = "wait until it has ended, or choose another `out`"
        if os.pread(self._descriptor, 4096, 0) != self._purpose:
            problem = f"another process is writing to {self._folder}, with other settings or another number of tasks"
            raise UserError(problem, remedy)
        if not self._try(_TASKS + self._task):
            raise UserError(f"another process is at the same work in {self._folder} (task {self._task})", remedy)

    def _leave(self) -> None:
        """With the shared byte held, so that nobody joins meanwhile."""
        if self._try(_PRESENT):
            self._path.unlink()
        os.close(self._descriptor)

    def __enter__(self) -> "FolderLock":
        self._open()
        try:
            self._join()
        except BaseException:
            self._leave()
            raise
        self._lock(fcntl.LOCK_UN, _SHARED)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock(fcntl.LOCK_EX, _SHARED)
        self._leave()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """For a moment, while a file that other tasks write too is published."""
        self._lock(fcntl.LOCK_EX, _SHARED)
        try:
            yield
        finally:
            self._lock(fcntl.LOCK_UN, _SHARED)

    def may_finish(self) -> bool:
        """Whether this task is the one to finish; it stays so until it leaves."""
        return self._try(_FINISH)
