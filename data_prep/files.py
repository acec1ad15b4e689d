"""Files by address: a local path, or anything that fsspec opens, such as `gs://gresearch/robotics`.

Local files never go through fsspec. It is the only file that imports it.
"""

import json
import posixpath
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from whale.errors import UserError

LFS_MAGIC = b"version https://git-lfs"


def is_local(address: str) -> bool:
    """Whether an address is a path on this machine."""
    return "://" not in address


def join(address: str, *names: str) -> str:
    """The address of something in a folder."""
    return str(Path(address, *names)) if is_local(address) else posixpath.join(address, *names)


def name_of(address: str) -> str:
    """The last part of an address."""
    return posixpath.basename(address.rstrip("/"))


def _remote(address: str) -> tuple[Any, str]:
    """File system and path in it of an address that is not local."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)
    except (ValueError, ImportError) as error:
        problem = f"{address} cannot be opened: {error}"
        raise UserError(problem, "install what fsspec names (`gs://` needs gcsfs, `s3://` s3fs)") from None


def open_file(address: str) -> BinaryIO:
    """A file, opened for reading; a FileNotFoundError when there is none."""
    if is_local(address):
        return Path(address).open("rb")
    files, path = _remote(address)
    return cast(BinaryIO, files.open(path, "rb"))


def list_folder(address: str) -> dict[str, int | None]:
    """Names in a folder with their size in bytes, None for folders; empty when there is no such folder."""
    if is_local(address):
        folder = Path(address)
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        return {path.name: None if path.is_dir() else path.stat().st_size for path in inside}
    files, path = _remote(address)
    try:
        inside = files.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    named = {name_of(one["name"]): None if one["type"] == "directory" else _size(files, one) for one in inside}
    return dict(sorted(named.items()))


def _size(files: Any, told: dict[str, Any]) -> int:
    """Size of a file as it was listed, in bytes; asked for where a web server's index does not tell it."""
    size = told["size"] if told["size"] is not None else files.info(told["name"])["size"]
    if size is None:
        raise UserError(f"the size of {told['name']} is not told", "fetch it from a server that tells sizes")
    return cast(int, size)


def read_json(address: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: the file is missing, is a Git-LFS pointer, or holds something else.
    """
    try:
        with open_file(address) as file:
            content = file.read()
    except FileNotFoundError:
        raise UserError(f"{address} is missing", "fetch the dataset again") from None
    if content.startswith(LFS_MAGIC):
        raise UserError(f"{address} is a Git-LFS pointer, not the data", "run `git lfs pull` where it came from")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{address} is not valid JSON: {error}", "fetch the dataset again") from None
    if not isinstance(values, dict):
        raise UserError(f"{address} holds no JSON object", "fetch the dataset again")
    return values


_MARKS = ("md5Hash", "etag", "ETag", "mtime", "Last-Modified", "LastModified", "created")
"""What file systems tell of a file that changes with its content, best first."""


@dataclass(frozen=True)
class Found:
    """A file below a folder."""

    num_bytes: int
    mark: str
    """What changes with its content, as `key=value`: a checksum, a tag or a time; empty where nothing is told."""


def find_files(address: str) -> dict[str, Found]:
    """All files below a folder, by their path in it; empty when there is no such folder.

    Raises:
        UserError: a size is not told.
    """
    if is_local(address):
        paths = sorted(path for path in Path(address).rglob("*") if path.is_file())
        return {
            path.relative_to(address).as_posix(): Found(path.stat().st_size, f"mtime={path.stat().st_mtime}")
            for path in paths
        }
    files, folder = _remote(address)
    prefix, found = folder.rstrip("/") + "/", {}
    for path, told in sorted(files.find(folder, detail=True).items()):
        if not path.startswith(prefix) or path.endswith("/") or "?" in path:
            continue  # a bucket may hold an object for a folder; a web server's index links to itself, sorted otherwise
        told = told if told["size"] is not None else files.info(path)
        mark = next((f"{key}={told[key]}" for key in _MARKS if told.get(key)), "")
        found[path.removeprefix(prefix)] = Found(_size(files, told), mark)
    return found


def read_range(address: str, start: int, stop: int) -> bytes:
    """The bytes of a file from `start` up to `stop`; more where the server does not know ranges."""
    if is_local(address):
        with Path(address).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)
    files, path = _remote(address)
    return cast(bytes, files.cat_file(path, start=start, end=stop))


def free_bytes(folder: Path) -> int:
    """Room on the disk where a folder is, or will be."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir())
    return shutil.disk_usage(there).free


def size_text(num_bytes: float) -> str:
    """A size for people, in decimal units."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.4g} TB"
