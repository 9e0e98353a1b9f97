"""Progress of long work: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
import unicodedata
from typing import TextIO

PLAIN_INTERVAL_SECONDS = 10.0
CHATTY_LIBRARIES = ("bitsandbytes", "DeepSpeed")


def quiet_libraries() -> None:
    """Only errors of libraries that report their own set-up, some of them on standard output.

    A filter outlives the level that a library gives its logger when it is imported.
    """
    for name in CHATTY_LIBRARIES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        logger.addFilter(lambda record: record.levelno >= logging.ERROR)


def printable(text: str) -> str:
    """Model output without control characters, which could drive the terminal."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


class Progress:
    """Tells how far a stage is.

    Args:
        stage: the name shown in front.
        stream: where to write; standard error by default, so that standard output stays for results.
    """

    def __init__(self, stage: str, stream: TextIO | None = None) -> None:
        self.stage = stage
        self.stream = stream or sys.stderr
        self._live = self.stream.isatty()
        self._started = time.monotonic()
        self._shown = 0.0 if self._live else self._started
        self._width = 0

    def say(self, text: str) -> None:
        """One line that stays."""
        self._clear()
        print(f"{self.stage}: {text}", file=self.stream, flush=True)

    def update(self, done: float, total: float, unit: str, facts: str = "") -> None:
        """`done` of `total` units; `facts` is what else is worth seeing (tokens/s, dollars)."""
        now = time.monotonic()
        if now - self._shown < (0.2 if self._live else PLAIN_INTERVAL_SECONDS) and done < total:
            return
        self._shown = now
        elapsed = now - self._started
        left = f", {elapsed * (total - done) / done:.0f} s left" if 0 < done < total else ""
        line = f"{self.stage}: {done:g}/{total:g} {unit}{', ' + facts if facts else ''}{left}"
        if self._live:
            self._clear()
            self.stream.write(line)
            self._width = len(line)
            self.stream.flush()
        else:
            print(line, file=self.stream, flush=True)

    def _clear(self) -> None:
        if self._live and self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self._width = 0
