"""How ranks meet, what they tell each other, and what is said when they cannot meet."""

import socket
from pathlib import Path

import pytest
from launch import free_port

from whale.errors import UserError
from whale.ranks import join

TELL = """
import torch
from pathlib import Path
from whale.ranks import broadcast, concatenate, join, total, total_of
with join("cpu", Path("run")) as here:
    rank = here.rank
    whole, own = concatenate(torch.arange(rank * 10, rank * 10 + [2, 0, 3][rank]))
    assert whole.tolist() == [0, 1, 20, 21, 22], whole
    assert own == [range(0, 2), range(2, 2), range(2, 5)][rank], own
    assert total_of(rank, 0.5) == [3.0, 1.5]
    assert broadcast(rank + 7) == 7 and broadcast(rank == 0) == 1
    value = torch.full((2,), float(rank))
    assert total(value).tolist() == [3.0, 3.0] and value.tolist() == [rank, rank]
sys.exit()
"""
SHORT = """
import whale.ranks
from pathlib import Path
from datetime import timedelta
whale.ranks.MEET_WITHIN = timedelta(seconds=2)
with whale.ranks.join("cpu", Path("run")):
    pass
"""
MEET = f"""
from whale.errors import UserError
try:
{SHORT.replace(chr(10), chr(10) + "    ")}
except UserError as error:
    print(error)
    sys.exit(2)
"""


def test_what_ranks_tell_each_other(launcher):
    launcher.run(ranks=3, before=TELL)


def test_a_port_in_use_is_named(launcher):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        running = launcher.start(ranks=2, only=[0], port=port, before=MEET)
        assert running.codes() == [2]
    assert f"rank 0 cannot listen on 127.0.0.1:{port}: the port is in use" in running[0].said()
    assert "set MASTER_PORT to a free port" in running[0].said()


def test_what_the_others_say_when_a_rank_never_comes(launcher):
    alone = [launcher.start(ranks=2, only=[rank], before=MEET) for rank in (0, 1)]
    expected_of = ["1/2 clients joined", "rank 1 of 2 did not find rank 0 at 127.0.0.1:"]
    for running, expected in zip(alone, expected_of, strict=True):
        assert running.codes() == [2], running.said()
        assert expected in running[0].said() and "check that all ranks were started" in running[0].said()


def test_an_incomplete_environment_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("LOCAL_RANK", "0")
    for name in ("RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="WORLD_SIZE is 2, but RANK, MASTER_ADDR are not set"), join("cpu", Path("run")):
        pass


def test_alone_nothing_is_opened(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join("cpu", Path("run")) as here:
        assert (here.rank, here.world_size, here.is_main) == (0, 1, True)
