"""Copies datasets from any address to `<out>/<dataset>/<version>`; what that takes is told before the first byte.

`fetched.json` in each folder lists what the source has. It is written before the first file and, with the checksums of
the files, after the last: so a file that is there with its size, and listed as the source still has it, is done.
"""

import dataclasses
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import Field, TypeAdapter

from whale.config import configclass
from whale.data_prep.download import Download, digest_of, partial_path
from whale.data_prep.files import Found, find_files, free_bytes, join, list_folder, read_json, size_text
from whale.data_prep.lock import FolderLock
from whale.data_prep.oxe.mixtures import mixture_of
from whale.data_prep.oxe.registry import REGISTRY
from whale.errors import UserError
from whale.progress import say
from whale.publish import write_json


@configclass
class FetchConfig:
    """Copy datasets of Open X-Embodiment, or others laid out like them, to a local folder."""

    root: str
    """Folder or address (`gs://gresearch/robotics`) with `<dataset>/<version>` folders."""
    datasets: dict[str, str | None] | str
    """Each dataset with its version, or the name of a mixture (data_prep/oxe/mixtures.py). A version of null is the
    newest there of those that the registry has facts of."""
    out: Path
    """Receives `<dataset>/<version>` folders."""
    workers: Annotated[int, Field(ge=1)] = 8
    """Files copied at the same time; each takes up to 32 MB of memory."""
    tell_only: bool = False
    """End after telling sizes and free space."""


def hide(text: str, address: str) -> str:
    """A text without the user and password, or the query, of an address."""
    parts = urlsplit(address)
    for secret in (parts.netloc.rpartition("@")[0], parts.password, unquote(parts.password or ""), parts.query):
        text = text.replace(secret, "***") if secret else text
    return text


def newest_version(root: str, dataset: str) -> str:
    """The newest version there that the registry has facts of; of a dataset that it does not know, the newest.

    Raises:
        UserError: there is none.
    """
    there = [name for name in list_folder(join(root, dataset)) if re.fullmatch(r"\d+\.\d+\.\d+", name)]
    known = REGISTRY[dataset].versions if dataset in REGISTRY else ()
    fitting = [version for version in there if not known or version in known]
    if not fitting:
        has = f"has the versions {', '.join(there)}" if there else "is no folder of versions"
        wants = f"; the registry has facts of {', '.join(known)}" if known else ""
        raise UserError(f"{join(root, dataset)} {has}{wants}", "check `root` and `datasets`, or name a version")
    return max(fitting, key=lambda version: tuple(map(int, version.split("."))))


def _check_listing(address: str, files: dict[str, Found]) -> None:
    """Every shard that `dataset_info.json` tells of must be there, and no file lie outside the folder."""
    if "dataset_info.json" not in files:
        raise UserError(f"{address} is no TFDS dataset: it has no dataset_info.json", "check `root` and `datasets`")
    if outside := [name for name in files if ".." in name.split("/") or name.startswith("/")]:
        raise UserError(f"{address} lists a file outside itself: {outside[0]}", "do not fetch from there")
    for split in read_json(join(address, "dataset_info.json")).get("splits", []):
        count, name = len(split.get("shardLengths", [])), split["name"]
        there = sum(f"-{name}." in file and file.endswith(f"-of-{count:05d}") for file in files)
        if there < count:
            problem = f"{address} has {there} of the {count} shards of {name} that its dataset_info.json lists"
            raise UserError(problem, "fetch from another source, or when it is whole")


class _Dataset:
    """One dataset to fetch: what the source has, and what is here."""

    def __init__(self, config: FetchConfig, dataset: str, version: str | None):
        self.name = f"{dataset}/{version or newest_version(config.root, dataset)}"
        self.address = join(config.root, *self.name.split("/"))
        self.folder, self._root = config.out / self.name, config.root
        self.found = find_files(self.address)
        _check_listing(self.address, self.found)
        listed = self.folder / "fetched.json"
        before = read_json(str(listed))["files"] if listed.is_file() else {}
        self.listed = TypeAdapter(dict[str, Found]).validate_python(before)
        self.sha256 = {name: one["sha256"] for name, one in before.items() if one["sha256"]}
        self.here = {name for name in self.found if self._is_here(name)}
        self.todo = [name for name in self.found if name not in self.here or name not in self.sha256]
        self.changed = [name for name in self.found if self.listed.get(name, self.found[name]) != self.found[name]]
        self.gone = [name for name in self.listed if name not in self.found]

    def _is_here(self, name: str) -> bool:
        path, found = self.folder / name, self.found[name]
        return self.listed.get(name) == found and path.is_file() and path.stat().st_size == found.num_bytes

    def bytes_of(self, names: Iterable[str]) -> int:
        return sum(self.found[name].num_bytes for name in names)

    def tell(self) -> None:
        """One line on its size, and one on what is not as it was."""
        whole, missing = (size_text(self.bytes_of(names)) for names in (self.found, self.todo))
        say(f"{self.name}: {len(self.found)} files, {whole}; to fetch: {len(self.todo)} files, {missing}")
        for names, what in ((self.changed, "changed at the source since they were listed, and are fetched again"),
                            (self.gone, "no longer at the source, and kept here")):
            if names:
                say(f"  note: {len(names)} files {what}: {', '.join(names[:5])}{', ...' if names[5:] else ''}")

    def _list(self) -> None:
        files = {
            name: dataclasses.asdict(one) | {"sha256": self.sha256.get(name)} for name, one in self.listed.items()
        }
        write_json(self.folder / "fetched.json", {"source": hide(self.address, self._root), "files": files})

    def _prepare(self) -> None:
        """List what is to come, once nothing else has its name."""
        kept = {partial_path(self.folder / name, self.found[name]) for name in self.todo}
        stale = [self.folder / name for name in self.todo if name not in self.here]
        for path in (*self.folder.rglob(".tmp-*"), *stale):
            if path not in kept:
                path.unlink(missing_ok=True)
        for name in self.todo:
            self.listed[name] = self.found[name]
            self.sha256.pop(name, None)
        self._list()

    def _fetch(self, name: str, download: Download) -> None:
        path, found = self.folder / name, self.found[name]
        if name in self.here:  # killed between its name and the list
            sha256 = digest_of(path).hexdigest()
            download.advance(found.num_bytes)
        else:
            sha256 = download.copy(join(self.address, *name.split("/")), path, found)
        self.sha256[name] = sha256

    def fetch(self, workers: int, download: Download) -> list[UserError]:
        """Copy what is missing; returns what stood in the way of single files."""
        self._prepare()
        pool = ThreadPoolExecutor(workers)
        try:
            futures = [pool.submit(self._fetch, name, download) for name in self.todo]
            errors = [error for future in futures if (error := future.exception())]
        finally:
            pool.shutdown(cancel_futures=True)
            self._list()
        for error in errors:
            if not isinstance(error, UserError):
                raise error
        return [error for error in errors if isinstance(error, UserError)]


def _check_space(out: Path, needed: int) -> None:
    free = free_bytes(out)
    say(f"{size_text(needed)} to fetch, {size_text(free)} free in {out}")
    if needed > free:
        raise UserError(f"{out} has {size_text(free)} free, {size_text(needed)} are to be fetched", "make room")


def _look(config: FetchConfig) -> list[_Dataset]:
    """What is to be fetched; all that cannot be is told in one error."""
    datasets, problems = [], []
    wanted = dict.fromkeys(mixture_of(config.datasets)) if isinstance(config.datasets, str) else config.datasets
    for name, version in wanted.items():
        try:
            datasets.append(_Dataset(config, name, version))
            datasets[-1].tell()
        except UserError as error:
            problems.append(error.args[0])
        except Exception as error:  # as in download.py
            problems.append(f"{join(config.root, name)} cannot be listed: {type(error).__name__}: {error}")
    if problems:
        told = "\n  - ".join([f"{len(problems)} of {len(wanted)} datasets cannot be fetched:", *problems])
        raise UserError(told, "correct `root` or `datasets`, or fetch the others without these")
    return datasets


def _fetch_all(config: FetchConfig) -> None:
    datasets = _look(config)
    needed = sum(dataset.bytes_of(dataset.todo) for dataset in datasets)
    _check_space(config.out, needed)
    todo = [dataset for dataset in datasets if dataset.todo]
    if config.tell_only or not todo:
        return
    download, errors = Download(needed), list[UserError]()
    for dataset in todo:
        with FolderLock(dataset.folder, "fetch", 0):
            errors += dataset.fetch(config.workers, download)
    download.close()
    if errors:
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise UserError("; ".join(error.args[0] for error in errors[:3]) + more, errors[0].args[1])


def fetch(config: FetchConfig) -> None:
    """The task: tell sizes, then copy what is missing.

    Raises:
        UserError: a dataset or version is not at the source, there is no room, or files could not be read; what the
            address holds of credentials is left out.
    """
    try:
        _fetch_all(config)
    except UserError as error:
        raise UserError(*(hide(text, config.root) for text in error.args)) from None
