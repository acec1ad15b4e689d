"""Saves checkpoints while training goes on.

Every rank copies its share of the state and writes it in a thread; training does not wait. When all ranks have
written, which they tell each other at their next step, the main process adds `COMPLETE` and publishes the folder. A
process that is killed before leaves a `.tmp-` folder, which the next start removes.
"""

import contextlib
import json
import secrets
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from whale.checkpoint import prune, sha256_file
from whale.checkpoint_folder import COMPLETE, checkpoint_of, find_checkpoints
from whale.errors import UserError
from whale.publish import put_folder, sync
from whale.ranks import Ranks, broadcast, total_of, wait_for_all

_PENDING = ".tmp-step_"


class Saver:
    """Checkpoints of one run, of which at most one is being written.

    Args:
        folder: the run's `checkpoints`; what killed processes left in it is removed.
        here: this process. Every method is called by all ranks at the same step.
        keep, milestones: see `whale.checkpoint.prune`.
    """

    def __init__(self, folder: Path, here: Ranks, keep: int, milestones: tuple[int, ...]):
        self._folder, self._here, self._keep, self._milestones = folder, here, keep, milestones
        self._thread: threading.Thread | None = None
        self._pruning: threading.Thread | None = None
        self._error: Exception | None = None
        # Another name than that of an earlier process, which may still be writing when it has lost its main process.
        self._launch = broadcast(secrets.randbits(31))
        if here.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            for left_over in folder.glob(".tmp-*"):
                shutil.rmtree(left_over, ignore_errors=True)

    def start(self, step: int, state: dict[str, Any], snapshot: Callable[[Path], Callable[[], list[Path]]]) -> None:
        """Begin to save the state after `step` updates, once the one before is published.

        Args:
            step: names the checkpoint.
            state: the content of its `state.json`.
            snapshot: as of the engine.

        Raises:
            UserError: the one before could not be written.
        """
        self.finish()
        self._step, self._pending = step, self._folder / f"{_PENDING}{step:07d}-{self._launch}"
        if self._here.is_main:
            self._pending.mkdir()
        wait_for_all()
        write = snapshot(self._pending)
        self._thread = threading.Thread(target=self._write, args=(write, state))
        self._thread.start()

    def _write(self, write: Callable[[], list[Path]], state: dict[str, Any]) -> None:
        try:
            files = write()
            if self._here.is_main:
                files.append(self._pending / "state.json")
                files[-1].write_text(json.dumps(state, sort_keys=True))
            with ThreadPoolExecutor(1) as pool:  # the disk and the processor at once
                synced = pool.map(sync, files)
                hashes = {file.relative_to(self._pending).as_posix(): sha256_file(file) for file in files}
                list(synced)
            self._hashes_of(self._here.rank).write_text(json.dumps(hashes))
        except Exception as error:  # told by `settle` on the main thread
            while error.__context__ is not None:  # what went wrong first: torch.save goes on to complain of offsets
                error = error.__context__  # type: ignore[assignment]
            self._error = error

    def _hashes_of(self, rank: int) -> Path:
        return self._pending / f"hashes_{rank}.json"

    def news(self) -> tuple[bool, bool]:
        """Whether this rank has written its share of what is being saved, and whether it has failed to."""
        done = self._thread is not None and not self._thread.is_alive()
        return done and self._error is None, done and self._error is not None

    def settle(self, written: int, failed: int) -> None:
        """Publish if all have written.

        Args:
            written: how many ranks have, by their `news`.
            failed: how many could not.

        Raises:
            UserError: a rank could not write its share.
        """
        if failed:
            self._give_up()
        if written == self._here.world_size:
            self._thread = None
            if self._here.is_main:
                self._publish()

    def finish(self) -> None:
        """Wait until what is being saved is published, and what it replaces is gone; see `settle` for the error."""
        if self._thread is not None:
            self._thread.join()
            self.settle(*(round(count) for count in total_of(*map(float, self.news()))))
            wait_for_all()
        if self._pruning is not None:  # makes room for the next
            self._pruning.join()

    def _publish(self) -> None:
        hashes: dict[str, str] = {}
        try:
            for rank in range(self._here.world_size):
                hashes |= json.loads(self._hashes_of(rank).read_text())
                self._hashes_of(rank).unlink()
            (self._pending / COMPLETE).write_text(json.dumps(hashes, indent=1, sort_keys=True))
            put_folder(self._pending, checkpoint_of(self._folder, self._step).folder)
        except OSError as error:
            self._error = error
            self._give_up()
        self._pruning = prune(self._folder, self._step, self._keep, self._milestones)

    def _give_up(self) -> None:
        if self._here.is_main:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._pending)
        found = find_checkpoints(self._folder)
        last = f"the last complete checkpoint is step {found[-1].step}" if found else "there is no checkpoint yet"
        cause = str(self._error).splitlines()[0] if self._error else "another process says why"
        raise UserError(
            f"step {self._step} could not be saved in {self._folder}: {cause}; {last}",
            "make room on that disk; the same command goes on from there",
        ) from self._error
