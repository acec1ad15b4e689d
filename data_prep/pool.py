"""Runs a function over jobs in worker processes, or here when one worker is enough."""

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


def run_jobs(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result as it is done. `function` returns no string.

    With several workers the processes are spawned, because TensorFlow does not survive a fork. At the first error
    the jobs that have not begun are dropped, and it is raised here.
    """
    jobs = list(jobs)
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, function(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_die_with_parent) as pool:
        futures = {pool.submit(_guarded, function, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                result = future.result()
                if isinstance(result, str):
                    problem, _, remedy = result.partition("\n  remedy: ")
                    raise UserError(problem, remedy)
                yield futures[future], result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
