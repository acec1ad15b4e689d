"""Tiny models and clips to drive, and a real server of them."""

import dataclasses
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tiny_clips import pixel_folder
from tiny_model import random_model

from whale.config import dump_config
from whale.play.catalogue import Catalogue
from whale.play.config import PlayConfig

POLICIES = """
import time
import numpy as np

class Policy:
    def __init__(self, seeds, how): self.how = how
    def act(self, images):
        if self.how == "raise": raise RuntimeError("no idea")
        if self.how == "hang": time.sleep(3600)
        return np.full((len(images), 7), 0.01, np.float32)

def steady(seeds): return Policy(seeds, "act")
def raising(seeds): return Policy(seeds, "raise")
def hanging(seeds): return Policy(seeds, "hang")
"""


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> PlayConfig:
    """Two models of one dataset, and its clips of 10 frames."""
    folder = tmp_path_factory.mktemp("play")
    for name, seed in (("first", 0), ("second", 1)):
        random_model(seed=seed).float().save_pretrained(folder / name)
    pixel_folder(folder / "clips", train=4, val=3)
    return PlayConfig(
        models={"first": folder / "first", "second": folder / "second"}, clips=folder / "clips", context_frames=3,
        port=0, max_steps=12, max_sessions=4, policy_timeout_sec=2.0,
        policies={name: f"driving:{name}" for name in ("steady", "raising", "hanging")} | {"absent": "nowhere:at_all"},
    )  # fmt: skip


@pytest.fixture(scope="session")
def catalogue(config) -> Catalogue:
    return Catalogue(config)


class Refused(Exception):  # noqa: N818
    """What the server would not do: `status`, and `problem` and `remedy` in words."""

    def __init__(self, status: int, body: bytes):
        self.status, told = status, json.loads(body)
        self.problem, self.remedy = told["problem"], told["remedy"]


class Server:
    """`whale play` in a process of its own."""

    def __init__(self, config: PlayConfig, *overrides: str, file: str | None = None):
        folder = Path(config.clips).parent
        (folder / "play.yaml").write_text(dump_config(config))
        (folder / "driving.py").write_text(POLICIES)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
                                    "OMP_NUM_THREADS": "1"}  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "whale", "play", file or str(folder / "play.yaml"), *overrides], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout and self.process.stderr
        for line in self.process.stdout:
            if found := re.search(r"http://(\S+):(\d+)/", line):
                self.host, self.port = found[1], int(found[2])
                break
        else:
            told = self.process.communicate()[1]
            raise AssertionError(f"it ended with code {self.process.returncode}: {told}")
        self.url = f"http://{self.host}:{self.port}"
        self.told: list[str] = []
        self._listening = threading.Thread(target=self.told.extend, args=(self.process.stderr,), daemon=True)
        self._listening.start()

    def raw(self, path: str, data: bytes | None = None, **headers: str) -> bytes:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            names = {"Content-Type": "application/json"} | names
        try:
            request = urllib.request.Request(self.url + path, data, names)
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, error.read()) from None

    def get(self, path: str) -> Any:
        return json.loads(self.raw(path))

    def open(self, **body: Any) -> "Driver":
        return Driver(self, json.loads(self.raw("/api/sessions", json.dumps(body).encode()))["id"])

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(20)
        self._listening.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()
        return code


@dataclasses.dataclass
class Driver:
    """One session of a server."""

    server: Server
    id: str

    def state(self) -> Any:
        return self.server.get(f"/api/sessions/{self.id}")

    def act(self, verb: str, **body: Any) -> Any:
        return json.loads(self.server.raw(f"/api/sessions/{self.id}/{verb}", json.dumps(body).encode()))

    def frame(self, model: str, step: int) -> bytes:
        return self.server.raw(f"/api/sessions/{self.id}/frames/{model}/{step}.png")

    def events(self) -> "Events":
        return Events(self)


class Events:
    """A stream of a session's changes, as a page holds it."""

    def __init__(self, driver: Driver):
        self.connection = http.client.HTTPConnection(driver.server.host, driver.server.port, timeout=10)
        self.connection.request("GET", f"/api/sessions/{driver.id}/events")
        self.answer = self.connection.getresponse()

    def next(self) -> Any:
        """The next change, or the name of an event without one."""
        lines = []
        while line := self.answer.readline().decode().strip():
            lines.append(line)
        return lines[0] if lines[0].startswith("event") else json.loads(lines[0].removeprefix("data: "))

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@pytest.fixture(scope="session")
def server(config):
    pytest.importorskip("fastapi", reason="the play extra is not installed")
    pytest.importorskip("uvicorn", reason="the play extra is not installed")
    running = Server(config)
    yield running
    assert running.end() == 0


@pytest.fixture
def new_server(config):
    """Starts another server, with other settings."""
    running: list[Server] = []

    def start(*overrides: str, file: str | None = None) -> Server:
        running.append(Server(config, *overrides, file=file))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


@pytest.fixture(scope="session")
def refused() -> type[Refused]:
    return Refused
