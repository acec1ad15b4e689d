"""What a process runs on, and the seeds it starts from."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

RECORDED_PACKAGES = ("whale", "torch", "numpy", "webdataset", "accelerate", "deepspeed", "safetensors")


def environment() -> dict[str, Any]:
    """Machine, versions and commit, for `environment.json` and the report."""
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "versions": versions,
        "commit": commit(),
    }


def processor_name() -> str:
    """The CPU's model name, or the architecture where the system does not tell."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """The commit of the checkout this package lies in, `-dirty` when changed, or `unknown` for an installed wheel."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return "unknown"
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def seed_everything(seed: int) -> None:
    """Seed torch's generators; NumPy code takes explicit generators everywhere."""
    import torch

    torch.manual_seed(seed)
