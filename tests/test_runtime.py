import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import torch

from whale import runtime

REPO = Path(__file__).resolve().parent.parent


def test_the_environment_is_json_and_names_versions_and_machine():
    told = runtime.environment()
    assert json.loads(json.dumps(told)) == told
    assert told["versions"]["torch"] == metadata.version("torch") and "whale" in told["versions"]
    assert told["python"] == platform.python_version()
    assert told["processor"]


@pytest.mark.skipif(not (REPO / ".git").exists(), reason="not a git checkout")
def test_the_commit_is_that_of_the_checkout():
    head = subprocess.run(["git", "-C", REPO, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    told = runtime.commit().removesuffix("-dirty")
    assert len(told) == 10 and head.stdout.startswith(told)


def test_a_package_outside_a_checkout_says_that_its_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "site-packages" / "whale" / "runtime.py"))
    assert runtime.commit() == "unknown"


def test_equal_seeds_draw_equal_numbers():
    draws = []
    for seed in (1, 1, 2):
        runtime.seed_everything(seed)
        draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
