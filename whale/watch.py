"""A rank that dies stops the others within a minute, with its name.

A collective operation waits for every rank: for ever, when one has died. So each rank counts up under its own key of
the rendezvous store, in a thread of its own, and watches the counts of the others.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from torch.distributed import DistError, Store

from whale.errors import UserError

EXIT_CODE = 3
"""Of a process that stops because another one has died."""
BEAT_SEC = 1.0
DEAD_AFTER_SEC = 20.0
"""Silence after which a rank counts as dead; measured in beats of the one who listens, which can be suspended too."""
_LEFT, _FAILED, _STOPS = "left", "failed", "stops"


class Watch:
    """Beats for this rank and watches the others.

    Args:
        store: the store that all ranks have met at.
        rank, world_size: this process.
    """

    def __init__(self, store: Store, rank: int, world_size: int):
        # A connection of its own: the main thread may wait in the other.
        self._store: Store = store.clone()  # type: ignore[attr-defined]
        self.rank, self.world_size = rank, world_size
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._rounds = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the block is left; an exception in it is told to the others."""
        self._beat("0")
        self._store.set(f"whale/name/{self.rank}", f"rank {self.rank} ({socket.gethostname()}, pid {os.getpid()})")
        names = self._names()
        self._threads = [threading.Thread(target=f, args=(names,), daemon=True) for f in (self._watch, self._guard)]
        for thread in self._threads:
            thread.start()
        try:
            yield
        except BaseException as error:
            if not self._end.is_set():
                self._await_the_cause(error)
                self._part(f"{_FAILED} {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            raise

    def leave(self) -> None:
        """Stop watching: all ranks have come to the end. The one that keeps the store waits until all have said so."""
        self._part(_LEFT)
        waited = 0.0
        with contextlib.suppress(RuntimeError):
            while self.rank == 0 and waited < DEAD_AFTER_SEC and not self._all_left():
                time.sleep(0.02)
                waited += 0.02

    def _all_left(self) -> bool:
        values = self._store.multi_get([f"whale/beat/{rank}" for rank in range(self.world_size)])
        return all(value.decode() == _LEFT for value in values)

    def _names(self) -> list[str]:
        keys = [f"whale/name/{rank}" for rank in range(self.world_size)]
        try:
            return [self._store.get(key).decode() for key in keys]
        except RuntimeError:  # its timeout
            missing = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
            raise UserError(
                f"of {self.world_size} ranks, {missing} did not come to the meeting point", "look at their logs"
            ) from None

    def _beat(self, value: str) -> None:
        self._store.set(f"whale/beat/{self.rank}", value)

    def _part(self, word: str) -> None:
        """Say the last word of this rank; the one that keeps the store stays until the others can have read it."""
        with self._lock, contextlib.suppress(RuntimeError):  # the store may be gone
            self._end.set()
            self._beat(word)
        for thread in self._threads:
            thread.join()  # one in the store when the interpreter ends would abort it
        if self.rank == 0 and word != _LEFT:
            time.sleep(3 * BEAT_SEC)

    def _await_the_cause(self, error: BaseException) -> None:
        """A broken connection says that another rank has died: leave it to the watching thread to say which."""
        if isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            self._end.wait(DEAD_AFTER_SEC + 10 * BEAT_SEC)

    def _watch(self, names: list[str]) -> None:
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        keys = [f"whale/beat/{rank}" for rank in others]
        seen = dict.fromkeys(others, ("", 0))
        while not self._end.wait(BEAT_SEC):
            self._rounds += 1
            try:
                with self._lock:
                    if self._end.is_set():
                        return
                    self._beat(str(self._rounds))
                    values = [value.decode() for value in self._store.multi_get(keys)]
            except RuntimeError:
                self._stop(f"{names[0]}, which keeps the meeting point, has died")
            for rank, value in zip(others, values, strict=True):
                if value.startswith(_FAILED):
                    self._end.wait(5 * BEAT_SEC)  # this rank may be about to end with the same error by itself
                    self._stop(f"{names[rank]} has failed: {value.removeprefix(_FAILED).strip()}")
                if value.startswith(_STOPS):
                    self._stop(value.removeprefix(_STOPS).strip())
                if value != seen[rank][0]:
                    seen[rank] = value, self._rounds
                elif value != _LEFT and (self._rounds - seen[rank][1]) * BEAT_SEC > DEAD_AFTER_SEC:
                    self._stop(f"{names[rank]} has died: not heard of for {DEAD_AFTER_SEC:.0f} s")

    def _guard(self, names: list[str]) -> None:
        """When the rank that keeps the store hangs, the watching thread waits for its answer for ever."""
        silent, seen = 0, 0
        while not self._end.wait(BEAT_SEC):
            silent, seen = (silent + 1 if seen == self._rounds else 0), self._rounds
            if silent * BEAT_SEC > DEAD_AFTER_SEC:
                self._stop(f"{names[0]} has died: not heard of for {DEAD_AFTER_SEC:.0f} s", tell=False)

    def _stop(self, reason: str, tell: bool = True) -> None:
        """End this process at once: its main thread waits in an operation that will never end."""
        if self._end.is_set():
            return
        remedy = "look at the log of that rank; the same command goes on from the last checkpoint"
        sys.stderr.write(f"whale: rank {self.rank} stops: {reason}\n  remedy: {remedy}\n")
        sys.stderr.flush()
        if tell:
            with contextlib.suppress(RuntimeError):  # the store may be gone
                self._beat(f"{_STOPS} {reason}")
            if self.rank == 0:  # the store ends with this process: let the others read why
                time.sleep(3 * BEAT_SEC)
        os._exit(EXIT_CODE)
