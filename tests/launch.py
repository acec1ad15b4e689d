"""Starts real processes as the ranks of a run, pauses them, signals them, kills them.

The ranks are forked by a server that has imported everything once, for imports take most of the time of a tiny run.
Each is a process of its own that runs what `python -m whale` runs.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

PATIENCE_SEC = 300.0
"""For what takes seconds, on a machine that does much else."""

_SERVER = """
import atexit, gc, json, os, signal, sys, threading
import accelerate, deepspeed.checkpoint.ds_to_universal, torch.distributed.fsdp, webdataset
import deepspeed.module_inject.auto_ep_layer, deepspeed.ops.op_builder.all_ops
import deepspeed.runtime.superoffload.superoffload_stage3, deepspeed.runtime.zero.muon.original_muon
import whale.finetune.run, whale.pretrain.train_dynamics, whale.pretrain.train_tokenizer, whale.zero
from whale import cli, watch

watch.BEAT_SEC = 0.1  # ranks part with an error only after some beats

gc.freeze()  # forks leave what they share alone
running = set()
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        pid, status = os.waitpid(request["wait"], os.WNOHANG)
        running.discard(pid)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
        answer = os.fork()
        if not answer:
            break
        os.setpgid(answer, answer)  # a group of its own, with what it starts
        running.add(answer)
    sys.stdout.write(json.dumps(answer) + "\\n")
    sys.stdout.flush()
else:
    for pid in running:
        os.killpg(pid, signal.SIGKILL)
    sys.exit()
out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out, out)):
    os.dup2(descriptor, number)
os.environ.update(request["environment"])
sys.argv = ["whale", *request["words"]]
exec(request["before"])
code = cli.main()
if not request["to_the_end"]:  # the end of so large an interpreter takes longer than a tiny run
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
"""

_PAUSE = """
import time
from whale.run_log import RunLog

def _pausing(self, step, values, position, training=RunLog.training):
    training(self, step, values, position)
    if step == {step}:
        open({mark!r} + os.environ["RANK"], "w").close()
        while not os.path.exists({go_on!r}):
            time.sleep(0.005)

RunLog.training = _pausing
"""


class Server:
    """A process that forks ranks."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([sys.executable, "-c", _SERVER], text=True, env=environment, **pipes)

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the server has ended: stderr says why"
        return json.loads(answer)

    def close(self) -> None:
        """End, and with it every rank that still runs."""
        self._process.communicate()


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


class Rank:
    """A forked process."""

    def __init__(self, server: Server, out: Path, **request: Any):
        self._server, self._out, self.code = server, out, None
        out.touch()
        self.pid: int = server.ask(out=str(out), **request)

    def alive(self) -> bool:
        if self.code is None:
            self.code = self._server.ask(wait=self.pid)
        return self.code is None

    def said(self) -> str:
        """What it has written to stdout and stderr."""
        return self._out.read_text(errors="replace")


def free_port() -> int:
    """A port that nobody listens on, outside the range that the system gives out by itself."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


class Ranks:
    """The processes of one run. What is said of `ranks` holds for all where none is named."""

    def __init__(self, ranks: list[Rank], mark: Path):
        self.ranks, self._mark = ranks, mark

    def __getitem__(self, rank: int) -> Rank:
        return self.ranks[rank]

    def _chosen(self, ranks: tuple[int, ...]) -> list[Rank]:
        return [self.ranks[rank] for rank in ranks or range(len(self.ranks))]

    def alive(self, *ranks: int) -> bool:
        """Whether one of them still runs."""
        return any(rank.alive() for rank in self._chosen(ranks))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait while they run until something is so."""
        end = time.monotonic() + PATIENCE_SEC
        while not condition():
            assert self.alive() and time.monotonic() < end, f"it never came to {what}:\n{self.said()}"
            time.sleep(0.005)

    def until_paused(self, *ranks: int) -> None:
        """Wait until they stand still at the step that was asked for."""
        marks = [Path(f"{self._mark}{rank}") for rank in ranks or range(len(self.ranks))]
        self.until(lambda: all(mark.exists() for mark in marks), "its pause")

    def go_on(self) -> "Ranks":
        """End the pause."""
        self._mark.touch()
        return self

    def send(self, number: signal.Signals, *ranks: int, group: bool = False) -> None:
        """A signal; with `group`, to the processes that they have started too."""
        for rank in self._chosen(ranks):
            if rank.alive():
                (os.killpg if group else os.kill)(rank.pid, number)

    def kill(self, *ranks: int) -> None:
        """SIGKILL to them and what they have started; returns when they are gone."""
        self.send(signal.SIGKILL, *ranks, group=True)
        while self.alive(*ranks):
            time.sleep(0.005)

    def codes(self) -> list[int]:
        """Exit codes, once all have ended; negative for a signal."""
        end = time.monotonic() + PATIENCE_SEC
        while self.alive():
            assert time.monotonic() < end, f"still running:\n{self.said()}"
            time.sleep(0.01)
        return [rank.code for rank in self.ranks if rank.code is not None]

    def succeed(self) -> "Ranks":
        """Wait for the end of all, and see that it is a good one."""
        assert self.codes() == [0] * len(self.ranks), self.said()
        return self

    def said(self) -> str:
        """What all have written."""
        return "\n".join(f"--- rank {number}\n{rank.said()}" for number, rank in enumerate(self.ranks))


class Launcher:
    """Starts runs.

    Args:
        server: forks the ranks.
        folder: for what they write to stdout and stderr.
    """

    def __init__(self, server: Server, folder: Path):
        self._server, self._folder, self._started = server, folder, list[Ranks]()

    def start(
        self, *words: object, ranks: int = 1, only: Sequence[int] = (), port: int | None = None, before: str = "",
        pause_at: int | None = None, to_the_end: bool = False,
    ) -> Ranks:  # fmt: skip
        """Start `whale <words>` once for each rank.

        Args:
            words: of the command.
            ranks: world size.
            only: start these alone.
            port: where they meet; by default a free one.
            before: Python that each runs first.
            pause_at: a step of training after which each waits for `go_on`.
            to_the_end: take the interpreter down in good order too.
        """
        stem, port = self._folder / f"run_{len(self._started)}", port or free_port()
        mark = stem.with_suffix(".pause")
        if pause_at is not None:
            before += _PAUSE.format(step=pause_at, mark=str(mark), go_on=str(mark))
        run = Ranks([], mark)
        self._started.append(run)
        for rank in only or range(ranks):
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
            environment = {**{k: str(v) for k, v in environment.items()}, "MASTER_ADDR": "127.0.0.1"}
            request = {"words": list(map(str, words)), "before": before, "to_the_end": to_the_end}
            run.ranks.append(Rank(self._server, Path(f"{stem}.{rank}"), environment=environment, **request))
        return run

    def run(self, *words: object, **options: Any) -> Ranks:
        """Start, and wait for a good end."""
        return self.start(*words, **options).succeed()

    def clean_up(self) -> None:
        """Kill what still runs."""
        for run in self._started:
            run.kill()
