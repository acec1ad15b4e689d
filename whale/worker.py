"""What a worker process does besides its work: it goes when its parent goes, and not before."""

import multiprocessing
import os
import signal
import threading

from whale.signals import ASKING


def die_with_parent() -> None:
    """End this process when its parent is gone: a worker whose parent was killed would wait for work for ever.

    It would hold on to its files and sockets, and might go on writing. torch's data loaders notice by themselves, but
    not where the parent was killed while a worker was starting.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def begin_loading(_: int) -> None:
    """Of a data-loading process (`worker_init_fn`): signals to stop are left to the trainer, which still needs it."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
