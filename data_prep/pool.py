"""Runs a function over jobs in worker processes, or here when one worker is enough."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from whale.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


def _die_with_parent() -> None:
    """A worker whose parent was killed would wait for jobs for ever, and might go on writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _guarded(function: Callable[[Job], Result], job: Job) -> Result | str:
    """A UserError as its text, because the exception itself does not survive the way between processes."""
    try:
        return function(job)
    except UserError as error:
        return str(error)


@contextlib.contextmanager
def open_pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Worker processes, or None when one is enough: then jobs run in this process.

    They are spawned, because TensorFlow does not survive a fork. On leaving, jobs that have not begun are dropped.
    """
    if workers == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_die_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_jobs(
    pool: ProcessPoolExecutor | None, function: Callable[[Job], Result], jobs: Iterable[Job]
) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result as it is done. `function` returns no string.

    Raises:
        UserError: the first that a job raised.
    """
    if pool is None:
        for job in jobs:
            yield job, function(job)
        return
    futures = {pool.submit(_guarded, function, job): job for job in jobs}
    for future in as_completed(futures):
        result = future.result()
        if isinstance(result, str):
            problem, _, remedy = result.partition("\n  remedy: ")
            raise UserError(problem, remedy)
        yield futures[future], result
