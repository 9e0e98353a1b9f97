"""A folder that is finished when its `record.json` exists, which is written last.

runs/<name>/03_traces/            done: record.json and the files it lists
runs/<name>/03_traces.partial/    half-written: identity.json, written first, and work that can go on
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distill.base.errors import FileError
from distill.base.fingerprint import file_digest, fingerprint
from distill.base.records import Row, read_rows

RECORD = "record.json"
IDENTITY = "identity.json"


@dataclass(frozen=True)
class Made:
    """What a stage returns. `rejected` counts rows by reason; `summary` is for the report (plain data)."""

    rows_in: int
    rows_out: int
    rejected: dict[str, int] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    cost_usd: float = 0.0
    tokens: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What stands in `record.json`. `identity` is what the artifact was made from, field by field."""

    id: str
    stage: str
    identity: dict[str, Any]
    rows_in: int
    rows_out: int
    rejected: dict[str, int]
    summary: dict[str, Any]
    cost_usd: float
    tokens: dict[str, int]
    versions: dict[str, str]
    seconds: float
    finished: str
    files: dict[str, dict[str, Any]]
    kept_despite: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder and its record."""

    path: Path
    record: Record

    @property
    def stage(self) -> str:
        return self.record.stage

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def summary(self) -> dict[str, Any]:
        return self.record.summary

    def rows(self, cls: type[Row], name: str) -> Iterator[Row]:
        """The rows of one of its Parquet files."""
        return read_rows(self.path / name, cls)


Inputs = Mapping[str, Artifact]


def open_artifact(path: Path) -> Artifact:
    """A finished artifact.

    Raises:
        FileError: no record, an unreadable one, or a listed file that is missing or of another size.
    """
    data = read_json(path / RECORD)
    try:
        record = Record(**data)
    except TypeError as error:
        raise FileError(f"{path / RECORD}: not a record of this version ({error}); make the stage again") from None
    for name, facts in record.files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != facts["bytes"]:
            found = f"{file.stat().st_size} bytes" if file.is_file() else "no such file"
            raise FileError(
                f"{file}: {found}, expected {facts['bytes']} bytes as recorded. "
                f"Restore the file or make the stage again with --rebuild {record.stage}"
            )
    return Artifact(path, record)


def finish_artifact(
    partial: Path,
    final: Path,
    stage: str,
    identity: dict[str, Any],
    made: Made,
    versions: dict[str, str],
    seconds: float,
) -> Artifact:
    """Write the record into `partial`, last, and give the folder its final name."""
    files = {
        file.relative_to(partial).as_posix(): {"bytes": file.stat().st_size, "sha256": file_digest(file)}
        for file in sorted(partial.rglob("*"))
        if file.is_file() and file not in (partial / IDENTITY, partial / RECORD)
    }
    record = Record(
        id=fingerprint({"identity": identity, "files": {name: facts["sha256"] for name, facts in files.items()}}),
        stage=stage,
        identity=identity,
        versions=versions,
        seconds=round(seconds, 3),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        files=files,
        **asdict(made),
    )
    write_json(partial / RECORD, asdict(record))
    os.replace(partial, final)
    sync_folder(final.parent)
    (final / IDENTITY).unlink(missing_ok=True)  # last: half-finished work without it would not be continued
    return Artifact(final, record)


def altered_files(artifact: Artifact) -> list[str]:
    """Names of files whose bytes are not those that the record lists."""
    return [
        name
        for name, facts in artifact.record.files.items()
        if not (artifact.path / name).is_file() or file_digest(artifact.path / name) != facts["sha256"]
    ]


def write_json(path: Path, value: Any) -> None:
    """JSON that appears whole or not at all, on disk when this returns."""
    partial = path.with_name(path.name + ".tmp")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        FileError: missing or torn.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: not readable as JSON: {error}") from None


def append_json(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a JSON-lines log."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a folder; a crash half-way leaves nothing under its name."""
    leaving = path.with_name(path.name + ".removed")
    shutil.rmtree(leaving, ignore_errors=True)
    os.replace(path, leaving)
    shutil.rmtree(leaving)
