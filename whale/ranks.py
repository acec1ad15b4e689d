"""The processes of one training run: how they find each other, and what they tell each other.

Started alone, a process is rank 0 of 1 and nothing here costs anything. Started by torchrun, or by srun with the same
environment variables (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), the ranks meet at rank 0's address; gloo
carries tensors in host memory, NCCL those on GPUs.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor

from whale.errors import StoppedError, UserError
from whale.signals import StopSignals
from whale.watch import Watch

BACKENDS = "cpu:gloo,cuda:nccl"
MEET_WITHIN = timedelta(minutes=5)
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Index among the processes of this node: the number of its GPU."""
    signals: StopSignals = field(default_factory=StopSignals)
    """Whether this process was asked to stop."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0


def _from_environment() -> Ranks:
    if "WORLD_SIZE" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return Ranks()
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} are not set",
            "start the processes with torchrun, or with slurm/pretrain.sbatch",
        )
    rank, world_size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Ranks(rank, world_size, local_rank)


@contextlib.contextmanager
def join(device: str, run: Path) -> Iterator[Ranks]:
    """Meet the other processes of the run, and part from them on leaving.

    While it lasts, a rank that dies stops the others (`whale.watch`), and a signal to stop is left to the loop.

    Args:
        device: `auto` or `cpu`, as in the engine's configuration.
        run: the run folder; ranks of another run that come to the same port are not mixed up with these.

    Raises:
        UserError: the port is taken, or the others are not found.
    """
    here = _from_environment()
    with here.signals:
        if here.world_size == 1:
            yield here
        else:
            with _met(here, device, run):
                yield here


@contextlib.contextmanager
def _met(here: Ranks, device: str, run: Path) -> Iterator[None]:
    gpu = device == "auto" and torch.cuda.is_available()
    if gpu:
        _take_gpu(here)
    store = torch.distributed.PrefixStore(str(run.absolute()), _meet(here))
    watch = Watch(store, here.rank, here.world_size)
    try:
        with watch.watching():
            torch.distributed.init_process_group(
                BACKENDS if gpu else "gloo", store=store, rank=here.rank, world_size=here.world_size
            )
            try:
                yield
            except StoppedError:  # on every rank
                _part(watch)
                raise
            _part(watch)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _part(watch: Watch) -> None:
    torch.distributed.barrier()
    watch.leave()


def _take_gpu(here: Ranks) -> None:
    if here.local_rank >= (count := torch.cuda.device_count()):
        raise UserError(
            f"rank {here.rank} is number {here.local_rank} of its node and sees {count} GPUs",
            "start one process per GPU; with srun, give the GPUs to the node (--gpus-per-node), not to each task",
        )
    torch.cuda.set_device(here.local_rank)


def _meet(here: Ranks) -> torch.distributed.Store:
    """The store through which the ranks find each other."""
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, _, _ = next(torch.distributed.rendezvous("env://", timeout=MEET_WITHIN))
    except torch.distributed.DistNetworkError as error:
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"rank 0 cannot listen on {address}: the port is in use", "set MASTER_PORT to a free port"
            ) from None
        raise _not_met(f"rank {here.rank} of {here.world_size} did not find rank 0 at {address}", error) from None
    except torch.distributed.DistStoreError as error:  # on rank 0; says how many came
        raise _not_met(f"rank 0 of {here.world_size} waited for the others at {address}", error) from None
    return store


def _not_met(problem: str, error: Exception) -> UserError:
    return UserError(
        f"{problem}: {str(error).splitlines()[0]}",
        "check that all ranks were started, and that MASTER_ADDR and MASTER_PORT are the same and can be reached",
    )


def is_joined() -> bool:
    """Whether there are other ranks."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def total(value: Tensor) -> Tensor:
    """Sum over all ranks, the same bits on each of them."""
    if is_joined():
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value


def total_of(*values: float) -> list[float]:
    """Sums over all ranks of a few numbers."""
    summed: list[float] = total(torch.tensor(values, dtype=torch.float64)).tolist()
    return summed


def concatenate(value_M: Tensor) -> tuple[Tensor, range]:
    """Vectors of all ranks one after the other, and the range that is this rank's; lengths may differ."""
    if not is_joined():
        return value_M, range(len(value_M))
    world_size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    lengths = torch.zeros(world_size, dtype=torch.int64, device=value_M.device)
    lengths[rank] = len(value_M)
    ends = total(lengths).cumsum(0).tolist()
    whole = torch.zeros(ends[-1], dtype=value_M.dtype, device=value_M.device)
    own = range(ends[rank] - len(value_M), ends[rank])
    whole[own.start : own.stop] = value_M
    return total(whole), own


def broadcast(value: int) -> int:
    """An integer of rank 0, on every rank."""
    own = value if not is_joined() or torch.distributed.get_rank() == 0 else 0
    return int(total(torch.tensor(own, dtype=torch.int64)))  # of a bool too: ranks send as many bytes


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if is_joined():
        torch.distributed.barrier()
