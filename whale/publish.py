"""Atomic publication: a reader sees a whole file or folder, or none.

Everything is written under a temporary name beside its destination, flushed to disk, and renamed. A process killed at
any moment leaves at most `.tmp-*` entries, which the next writer of the same name removes. A folder is replaced in two
renames; where a process was killed between them, that writer first puts the earlier folder back.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def temporary_name(path: Path) -> Path:
    """The name under which `path` is written before it is published."""
    return path.with_name(f".tmp-{path.name}")


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it becomes `path`, on an exception nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes `path`, on an exception an earlier `path` stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    _settle(path)
    temporary.mkdir()
    try:
        yield temporary
        put_folder(temporary, path)
    finally:
        _settle(path)


def put_folder(temporary: Path, path: Path) -> None:
    """Make a folder that was filled under another name in the same place durable, and publish it as `path`."""
    for entry in (*temporary.rglob("*"), temporary):
        sync(entry)
    replaced = _replaced_name(path)
    if path.exists():
        path.replace(replaced)
    temporary.replace(path)
    sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _replaced_name(path: Path) -> Path:
    """The name of the folder that `path` is about to replace; whatever has it is whole."""
    return path.with_name(f".tmp-old-{path.name}")


def _settle(path: Path) -> None:
    """End a publication at whatever point it was left: at `path` is the new folder or the earlier one, and no rest."""
    temporary, replaced = temporary_name(path), _replaced_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    if replaced.exists():
        replaced.replace(temporary if path.exists() else path)
        shutil.rmtree(temporary, ignore_errors=True)


def json_text(value: Any) -> str:
    """Indented JSON with sorted keys, so that equal values are equal bytes; NaN is refused."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as `json_text`."""
    text = json_text(value)
    with publish_file(path) as temporary:
        temporary.write_text(text)
