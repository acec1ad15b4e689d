"""Who holds a run folder, and what became of the run: the files `lock` and `status.json`.

`lock` is held with a POSIX record lock. The kernel lets go of it when the process dies, however it dies; data-loading
workers do not inherit it, so none of them can keep it for a dead job; and it works over NFS (where a whole node dies,
an NFSv4 server lets go after its lease, 90 seconds by default). Such a lock is also dropped when its process closes
*any* descriptor of the file, so nothing else may open `lock` in a process that trains.

`status.json` is published when a run starts, when its first step is known, and when it ends. The live step is in
`metrics.jsonl`, the checkpoints are in `checkpoints/`: neither is repeated here.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, PositiveInt, TypeAdapter, ValidationError

from whale.errors import UserError
from whale.progress import say
from whale.publish import write_json

LOCK_FILE = "lock"
STATUS_FILE = "status.json"
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a filesystem without locks answers (Lustre mounted without `flock`, NFS without a lock daemon)."""
_FLOCK, _TYPE = ("hhqqi4x", 0) if sys.platform == "linux" else ("qqihh", 3)
"""C's `struct flock` as a format, and which field is the type. Linux: type, whence, start, length, pid; macOS: start,
length, pid, type, whence. Zeros mean the whole file."""
_held: set[tuple[int, Path]] = set()
"""Process and folder of what is occupied; with the process, for a forked worker has this set, but not the locks."""


@dataclass(frozen=True)
class RunRecord:
    """What `status.json` holds."""

    task: str
    """Words of the command, as `pretrain dynamics`."""
    state: Literal["running", "stopped", "finished", "failed"]
    """Stopped: after a signal, with everything saved. A killed run still says `running`, and nobody holds its lock."""
    attempt: PositiveInt
    """1 and one for each restart."""
    started: AwareDatetime
    """When this attempt occupied the folder."""
    first_step: int | None
    """Steps already done when this attempt began to train; None while it is starting up."""
    steps: PositiveInt
    """Steps in all."""
    world_size: int
    """Processes that train."""
    host: str
    """Where the main process runs."""
    pid: int
    """The main process."""
    slurm_job: str | None
    """The job it belongs to."""
    locked: bool
    """False where the filesystem has no locks."""
    ended: AwareDatetime | None = None
    """When this attempt ended."""
    step: int | None = None
    """The last step done, where the run told it at its end."""
    message: str = ""
    """Stopped: the signal. Failed: the first line of the error."""


_RECORD = TypeAdapter(RunRecord)


def read_record(folder: Path) -> RunRecord:
    """What `status.json` in a run folder says.

    Raises:
        UserError: it is not a record; what is wrong is named.
    """
    path = folder / STATUS_FILE
    try:
        return _RECORD.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        fault = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise UserError(
            f"{path} is not the record of a run: {fault}",
            "delete it: it tells what became of the run, and training goes on from checkpoints/ without it",
        ) from None


class RunFolder:
    """A run folder that this process holds. Made by `occupy`."""

    def __init__(self, folder: Path, record: RunRecord):
        self._folder, self.record = folder, record
        self._note()

    def begin(self, step: int) -> None:
        """Training begins now, with `step` steps done before."""
        self._note(first_step=step)

    def end(self, state: Literal["finished", "stopped", "failed"], step: int | None = None, reason: str = "") -> None:
        """The run ends; `reason` is the name of the signal, or the error. An exception is noted by `occupy` itself."""
        self._note(state=state, step=step, message=reason, ended=datetime.now(timezone.utc))

    def _note(self, **changes: object) -> None:
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        write_json(self._folder / STATUS_FILE, _RECORD.dump_python(self.record, mode="json"))


@contextlib.contextmanager
def occupy(folder: Path, task: str, steps: int, world_size: int) -> Iterator[RunFolder]:
    """Hold a run folder, for the main process of a run; the block calls `begin` and `end`.

    An exception that leaves the block before `end` is noted as `failed`, with the first line of its text. On a
    filesystem without locks this is said, noted, and the run goes on: two jobs there do not notice each other.

    Args:
        folder: made where it does not exist.
        task: words of the command, as `pretrain dynamics`.
        steps: steps in all.
        world_size: processes that train.

    Raises:
        UserError: another process holds the folder, or its `status.json` is not a record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    host, pid, job, now = socket.gethostname(), os.getpid(), os.environ.get("SLURM_JOB_ID"), datetime.now(timezone.utc)
    holder = f"process {pid} on {host}" + (f" (SLURM job {job})" if job else "") + f" since {now:%Y-%m-%d %H:%M:%S} UTC"
    with _lock(folder, holder) as locked:
        attempt = 1 + (read_record(folder).attempt if (folder / STATUS_FILE).is_file() else 0)
        run = RunFolder(
            folder, RunRecord(task, "running", attempt, now, None, steps, world_size, host, pid, job, locked)
        )
        try:
            yield run
            assert run.record.state != "running", "a run says how it ended before it leaves its folder"
        except BaseException as error:
            if run.record.state == "running":
                try:
                    run.end("failed", reason=_first_line(error))
                except OSError as unnoted:  # a full disk, and likely the reason for the error itself, which matters
                    say(f"could not note in {folder / STATUS_FILE} that the run failed: {unnoted}")
            raise


def _first_line(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), "")[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".removesuffix(": ")


@contextlib.contextmanager
def _lock(folder: Path, holder: str) -> Iterator[bool]:
    """Hold `lock` and write the holder into it; yields False where the filesystem has no locks."""
    key = (os.getpid(), folder.resolve())
    if key in _held:  # the kernel would grant it again, and drop it with the inner block
        raise RuntimeError(f"this process holds {folder} already")
    descriptor, locked = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666), True
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                other = os.pread(descriptor, 1000, 0).decode(errors="replace") or "a process that has just started"
                raise UserError(
                    f"{folder} is in use by {other}",
                    "wait until that run ends, stop it (`whale status` shows how it goes), or choose another folder",
                ) from None
            if error.errno not in _WITHOUT_LOCKS:
                raise
            locked = False
            say(f"{folder} lies on a filesystem without locks: a second job on it would go unnoticed, so start none")
        _held.add(key)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        os.fsync(descriptor)  # for readers on other nodes
        yield locked
    finally:
        _held.discard(key)
        os.close(descriptor)


def is_held(folder: Path) -> bool | None:
    """Whether a process holds the run folder, found out without locking anything; None where there are no locks."""
    if (os.getpid(), folder.resolve()) in _held:  # opening and closing the file here would drop the lock
        return True
    path = folder / LOCK_FILE
    if not path.is_file():
        return False
    request = [fcntl.F_WRLCK if field == _TYPE else 0 for field in range(5)]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_FLOCK, *request))
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            return None
        raise
    finally:
        os.close(descriptor)
    return bool(struct.unpack(_FLOCK, answer)[_TYPE] != fcntl.F_UNLCK)
