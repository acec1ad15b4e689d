"""Runs a function over jobs in worker processes, or here when one worker is enough."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import TypeVar

from whale.errors import StoppedError, UserError
from whale.signals import ASKING
from whale.worker import begin_loading

Job = TypeVar("Job")
Result = TypeVar("Result")


@contextlib.contextmanager
def open_pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Worker processes, or None when one is enough: then jobs run in this process.

    They are spawned, because TensorFlow does not survive a fork. On leaving, jobs that have not begun are dropped.
    """
    if workers == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=begin_loading, initargs=(0,))
    try:
        yield pool
    except (BrokenProcessPool, StoppedError) as error:
        for worker in multiprocessing.active_children():
            worker.kill()  # whatever moment a process is killed at, the next start goes on
        if isinstance(error, StoppedError):
            raise
        raise UserError("a worker process was killed, most likely because memory ran out",
                        "use fewer `workers`, or ask for more memory; the same command goes on") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_jobs(
    pool: ProcessPoolExecutor | None, function: Callable[[Job], Result], jobs: Iterable[Job]
) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result as it is done; the first exception that a job raised is raised here."""
    if pool is None:
        for job in jobs:
            yield job, function(job)
        return
    futures = {pool.submit(function, job): job for job in jobs}
    for future in as_completed(futures):
        yield futures[future], future.result()


@contextlib.contextmanager
def stop_on_signal() -> Iterator[None]:
    """While this context lasts, SIGTERM and SIGUSR1 raise a StoppedError wherever the main process is."""

    def stop(number: int, _: FrameType | None) -> None:
        for other in ASKING:
            signal.signal(other, signal.SIG_IGN)  # on its way out: a second one must not disturb it
        raise StoppedError(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in ASKING}
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            for number, handler in before.items():
                signal.signal(number, handler)
