"""SIGTERM and SIGUSR1 ask a run to save and stop: a batch system sends them before it takes the machine away."""

import signal
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """While this context lasts, the two signals are only noted; the loop looks after every step."""

    def __init__(self) -> None:
        self._name = ""

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in ASKING}
        return self

    def __exit__(self, *_: object) -> None:
        if self.came:
            return  # on its way out: a second signal must not change the exit code
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._name = signal.Signals(number).name

    @property
    def came(self) -> bool:
        """Whether this process was asked to stop."""
        return bool(self._name)

    @property
    def name(self) -> str:
        """The signal that came, or that it came to another process."""
        return self._name or "a signal to another process"
