"""Progress of long work: a bar with rate and ETA on a terminal, a plain line now and then in a batch log."""

import sys
import time
from typing import TextIO


def _clock(seconds: float) -> str:
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


class Progress:
    """Counts towards `total`; `note` is shown behind the rate."""

    def __init__(
        self, label: str, total: int, unit: str, done: int = 0, every_sec: float = 10.0, out: TextIO | None = None
    ):
        self.label, self.total, self.unit = label, total, unit
        self.done = self._done_at_start = done
        self._out = out or sys.stderr
        self._terminal = self._out.isatty()
        self._every_sec = 0.2 if self._terminal else every_sec
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units and show the state if it is time to."""
        self.done += count
        now = time.monotonic()
        if now - self._last >= self._every_sec:
            self._last = now
            self._show(now, note)

    def line(self, text: str) -> None:
        """One plain line with the time left behind it; a bar goes on below."""
        self._out.write(("\r\x1b[K" if self._terminal else "") + f"{text}  ETA {self._left(time.monotonic())}\n")
        self._out.flush()

    def close(self, note: str = "") -> None:
        """Show the final state."""
        self._show(time.monotonic(), note)
        if self._terminal:
            self._out.write("\n")

    def _rate(self, now: float) -> float:
        return (self.done - self._done_at_start) / max(now - self._start, 1e-9)

    def _left(self, now: float) -> str:
        rate = self._rate(now)
        return _clock((self.total - self.done) / rate) if rate > 0 else "?"

    def _show(self, now: float, note: str) -> None:
        rate, left = self._rate(now), self._left(now)
        speed = f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"
        text = f"{self.label}: {self.done}/{self.total} {self.unit}, {speed} {self.unit}/s, ETA {left}"
        text += f", {note}" if note else ""
        if self._terminal:
            filled = round(24 * self.done / max(self.total, 1))
            self._out.write(f"\r[{'#' * filled}{'.' * (24 - filled)}] {text}\x1b[K")
        else:
            self._out.write(text + "\n")
        self._out.flush()


def say(text: str) -> None:
    """One line for the person or the batch log, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
