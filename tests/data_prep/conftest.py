"""TensorFlow takes seconds to load and must not share a process with forking loaders: one process serves all tests.

What is to be killed runs in a process of its own.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pytest

BRIDGE = Path(__file__).parents[2] / "../shared/data/octo_bridge_debug/bridge_dataset/1.0.0"

_SERVER = """
import contextlib, io, json, sys, traceback
from whale.cli import main
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(json.loads(line))
        except Exception:
            code = traceback.print_exc() or 1
    sys.__stdout__.write(json.dumps([code, out.getvalue(), err.getvalue()]) + "\\n")
    sys.__stdout__.flush()
"""


# Python runs a module of this name at its start, in worker processes too.
_SITECUSTOMIZE = """
import os, pathlib, time
rename, point, go_on = pathlib.Path.replace, os.environ["PAUSE_BEFORE"], os.environ["GO_ON"]
def replace(self, target):
    if str(target).endswith(point):
        os.write(1, b"paused\\n")
        while not os.path.exists(go_on):
            time.sleep(0.01)
    return rename(self, target)
pathlib.Path.replace = replace
"""


def words_of(settings: dict) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


class Started:
    """`whale data_prep <task>` in a process of its own; with `before`, it pauses before that file gets its name."""

    def __init__(self, folder: Path, task: str, settings: dict, before: str | None):
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        self.go_on = folder / "go_on"
        pausing = {"PYTHONPATH": str(folder), "PAUSE_BEFORE": before or "", "GO_ON": str(self.go_on)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "whale", "data_prep", task, *words_of(settings)], text=True,
            env=os.environ | (pausing if before else {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.said = ""

    def wait(self, before: str) -> None:
        """Wait until it pauses."""
        while "paused" not in self.said:
            line = self.process.stdout.readline()
            assert line, f"it ended before {before} was published:\n{self.said}"
            self.said += line

    def kill(self) -> None:
        """SIGKILL, asserted to have hit a running process; returns when its workers are gone too."""
        assert self.hit(), self.said

    def hit(self) -> bool:
        """SIGKILL; False when it had come to its end, in good order, the moment before."""
        self.process.send_signal(signal.SIGKILL)
        self.said += self.process.communicate(timeout=60)[0]  # workers have the same pipe: it ends with the last
        assert self.process.returncode in (0, -signal.SIGKILL), self.said
        return self.process.returncode != 0

    def finish(self) -> str:
        """Let it go on to its end, and return what it said."""
        self.go_on.touch()
        self.said += self.process.communicate(timeout=60)[0]
        assert self.process.returncode == 0, self.said
        return self.said


@pytest.fixture
def start(tmp_path_factory):
    """Start `whale data_prep <task>` with settings; what still runs at the end of the test is killed."""
    started = []

    def run(task: str, /, before: str | None = None, **settings) -> Started:
        started.append(Started(tmp_path_factory.mktemp("started"), task, settings, before))
        if before:
            started[-1].wait(before)
        return started[-1]

    yield run
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture(scope="session")
def bytes_of():
    """SHA-256 of every file in a folder, by its name."""

    def run(folder: Path) -> dict[str, str]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return run


@pytest.fixture(scope="session")
def whale():
    """Run `whale data_prep <task>` with settings, in a process that lives on."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", _SERVER], text=True, **pipes) as server:

        def run(task: str, /, **settings) -> Ran:
            server.stdin.write(json.dumps(["data_prep", task, *words_of(settings)]) + "\n")
            server.stdin.flush()
            return Ran(*json.loads(server.stdout.readline()))

        yield run
        server.stdin.close()


@pytest.fixture(scope="session")
def rlds(whale, tmp_path_factory) -> Path:
    """24 tabletop episodes of 12 frames in three shards."""
    out = tmp_path_factory.mktemp("rlds")
    ran = whale("collect", out=out, episodes=24, steps=12, shards=3, seed=5)
    assert ran.code == 0, ran.err
    return out / "tabletop" / "1.0.0"


@pytest.fixture(scope="session")
def settings(rlds) -> dict:
    """How the tests convert the tabletop dataset; `out` is to be added."""
    return {"source": rlds, "camera": "image", "val_fraction": 0.3}


@pytest.fixture(scope="session")
def convert(whale, settings):
    """Convert the tabletop dataset with these settings, or with others, expecting success."""

    def run(out: Path, **others) -> Ran:
        ran = whale("convert", **settings | {"out": out} | others)
        assert ran.code == 0, ran.err
        return ran

    return run


@pytest.fixture(scope="session")
def clips(convert, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "clips"
    convert(out)
    return out


@pytest.fixture(scope="session")
def oracle():
    """Run a function of tests/tfds_oracle.py in a process that lives on."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=120)


@pytest.fixture
def bridge() -> Path:
    if not BRIDGE.is_dir():
        pytest.skip("the Bridge excerpt (../shared/data/octo_bridge_debug) is not here")
    return BRIDGE.resolve()
