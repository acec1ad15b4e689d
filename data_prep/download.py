"""One file from any address to disk, in pieces: it grows under a temporary name that also says which content it is of,
and gets its own name when it is whole. Whatever kills this loses a piece at most.
"""

import base64
import hashlib
import os
import threading
import time
from pathlib import Path

from whale.clips.manifest import hash_of
from whale.data_prep.files import LFS_MAGIC, Found, read_range
from whale.errors import UserError
from whale.progress import Progress
from whale.publish import sync

PIECE_BYTES = 1 << 24
WAITS_SEC = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Before a read that failed is tried again."""
AGAIN = "the same command goes on with what is missing"


def partial_path(path: Path, found: Found) -> Path:
    """Where a file grows: another place for other content."""
    return path.with_name(f".tmp-{path.name}-{hash_of([found.num_bytes, found.mark])[:8]}")


def digest_of(path: Path, algorithm: str = "sha256") -> "hashlib._Hash":
    """The hash of a file's content so far, which can be added to."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest


class Download:
    """Copies files, in any number of threads; a read that fails is tried again, and counted."""

    def __init__(self, total_bytes: int):
        self._progress = Progress("fetch", round(total_bytes / 1e6), "MB")
        self._lock, self._rest_bytes, self._again = threading.Lock(), 0, 0

    def advance(self, num_bytes: int) -> None:
        """Count bytes that are here."""
        with self._lock:
            megabytes, self._rest_bytes = divmod(self._rest_bytes + num_bytes, 1_000_000)
            self._progress.advance(megabytes)

    def close(self) -> None:
        """Show the final state."""
        self._progress.close(f"{self._again} reads were tried again" if self._again else "")

    def _piece(self, address: str, start: int, stop: int) -> bytes:
        for wait_sec in (*WAITS_SEC, None):
            try:
                piece = read_range(address, start, stop)
                if len(piece) >= stop - start:
                    break
                problem = f"{len(piece)} bytes came where {stop - start} from {start} on were asked for"
            except FileNotFoundError:
                raise UserError(f"{address} is not there any more", AGAIN) from None
            except Exception as error:  # of the network or the server; each client library has classes of its own
                problem = f"{type(error).__name__}: {error}"
            if wait_sec is None:
                raise UserError(f"{address} cannot be read: {problem}", AGAIN)
            with self._lock:
                self._again += 1
            time.sleep(wait_sec)
        if len(piece) > stop - start:
            raise UserError(f"the server of {address} sends more than was asked for", "use one that knows HTTP ranges")
        if start == 0 and piece.startswith(LFS_MAGIC):
            raise UserError(f"{address} is a Git-LFS pointer, not the data", "run `git lfs pull` where it came from")
        return piece

    def copy(self, address: str, path: Path, found: Found) -> str:
        """Copy one file, going on with what is there of it; returns its SHA-256.

        Raises:
            UserError: it cannot be read, is a Git-LFS pointer, or has not the checksum that its source tells.
        """
        partial = partial_path(path, found)
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("ab") as file:
            at = min(file.tell(), found.num_bytes) // PIECE_BYTES * PIECE_BYTES
            file.truncate(at)
            digest = digest_of(partial)
            self.advance(at)
            while at < found.num_bytes:
                piece = self._piece(address, at, min(at + PIECE_BYTES, found.num_bytes))
                file.write(piece)
                file.flush()
                os.fsync(file.fileno())
                digest.update(piece)
                at += len(piece)
                self.advance(len(piece))
        kind, _, told = found.mark.partition("=")
        if kind == "md5Hash" and base64.b64encode(digest_of(partial, "md5").digest()).decode() != told:
            partial.unlink()
            raise UserError(f"{address} did not come with the MD5 checksum that its source tells", AGAIN)
        partial.replace(path)
        sync(path.parent)
        return digest.hexdigest()
