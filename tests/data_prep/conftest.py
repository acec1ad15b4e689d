"""TensorFlow takes seconds to load and must not share a process with forking loaders: one process serves all tests."""

import json
import subprocess
import sys
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def whale(tmp_path_factory):
    """Run `whale data_prep <task>` with settings, in a process that lives on."""
    folder = tmp_path_factory.mktemp("configs")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", _SERVER], text=True, **pipes) as server:

        def run(task: str, **settings) -> Ran:
            file = folder / "config.yaml"
            file.write_text(json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in settings.items()}))
            server.stdin.write(json.dumps(["data_prep", task, str(file)]) + "\n")
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
def convert(whale):
    """Convert a tabletop dataset, expecting success."""

    def run(source: Path, out: Path, **settings) -> Ran:
        ran = whale("convert", **{"source": source, "out": out, "camera": "image", "val_fraction": 0.3, **settings})
        assert ran.code == 0, ran.err
        return ran

    return run


@pytest.fixture(scope="session")
def clips(rlds, convert, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "clips"
    convert(rlds, out)
    return out


@pytest.fixture
def bridge() -> Path:
    if not BRIDGE.is_dir():
        pytest.skip("the Bridge excerpt (../shared/data/octo_bridge_debug) is not here")
    return BRIDGE.resolve()
