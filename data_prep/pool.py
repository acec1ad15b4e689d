"""Runs a function over jobs in worker processes, or here when one worker is enough."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from whale.worker import die_with_parent

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
    pool = ProcessPoolExecutor(workers, context, initializer=die_with_parent)
    try:
        yield pool
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
