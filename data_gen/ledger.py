"""Every answer that was paid for, failures included: append-only segments that survive `kill -9`.

A segment is a text file with one writer. Each line is a group of rows that became durable together:

    <CRC-32 of the JSON, 8 hexadecimal digits> <JSON list of rows>

The union of the segments is the truth; a row's key is its id, which is content, never a position. A torn last
line (the process died while writing) is passed over; a damaged line elsewhere is named and the rest is read.
Not promised: two writers in one segment, and durability beyond what `fsync` of the file system gives.
"""

from __future__ import annotations

import json
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from distill.base.artifacts import sync_folder
from distill.base.records import Trace

SUFFIX = ".segment"


class Writer:
    """The only writer of its segments in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file: BinaryIO | None = None

    def append(self, rows: Sequence[Trace]) -> None:
        """Make a group of rows durable; when this returns they are acknowledged.

        After a failed write (full disk) the next group goes to a new segment: what a torn end holds never counts.
        """
        body = json.dumps([asdict(row) for row in rows], separators=(",", ":")).encode()
        file = self._file or (self.folder / f"{uuid.uuid4().hex}{SUFFIX}").open("xb")
        if self._file is None:
            sync_folder(self.folder)
        self._file = None
        file.write(b"%08x %s\n" % (zlib.crc32(body), body))
        file.flush()
        os.fsync(file.fileno())
        self._file = file


class Ledger:
    """The rows of all segments in a folder, each key once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []

    def rows(self) -> Iterator[Trace]:
        """Rows in the order of segment names; a success stands before a failure with the same key."""
        found: dict[str, Trace] = {}
        self.damaged = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            for row in self._segment(path):
                if row.id not in found or (found[row.id].error is not None and row.error is None):
                    found[row.id] = row
        yield from found.values()

    def _segment(self, path: Path) -> Iterable[Trace]:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                crc, _, body = line.rstrip(b"\n").partition(b" ")
                if crc != b"%08x" % zlib.crc32(body):
                    if not line.endswith(b"\n"):
                        continue  # torn: never acknowledged
                    self.damaged.append(f"{path}, line {number}: checksum does not match; its rows are harvested again")
                    continue
                for row in json.loads(body):
                    yield Trace(**row)
