"""Files kept open for reading by position, so many at a time and no more."""

import os
from collections import OrderedDict

MAX_OPEN_FILES = 256
"""A quarter of what a process may usually open; opening a file again is what a shared filesystem is slow at."""


class OpenFiles:
    """Descriptors of the files read last. A copy sent to another process opens its own."""

    def __init__(self, most: int = MAX_OPEN_FILES):
        self.most = most
        self._files: OrderedDict[str, int] = OrderedDict()

    def descriptor(self, path: str) -> int:
        """A descriptor that is valid until the next call."""
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        if len(self._files) == self.most:
            os.close(self._files.popitem(last=False)[1])
        self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._files[path]

    def __len__(self) -> int:
        return len(self._files)

    def __getstate__(self) -> dict:
        return {"most": self.most}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)
