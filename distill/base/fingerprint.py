"""Configuration -> canonical bytes -> id, and the difference of two configurations by field."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
LARGE_FILE_BYTES = 64 * MIB


def canonical(value: Any) -> bytes:
    """`value` as bytes that are the same in every process and on every machine.

    Raises:
        TypeError: for anything but None, bool, int, finite float, str, list, tuple and str-keyed mappings.
            A fallback to `str(value)` would fork ids silently between two runs.
    """
    _refuse_unstable(value, "value")
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def _refuse_unstable(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{where} is {value}, which has no stable form; use a finite number or null")
    if value is None or isinstance(value, bool | int | float | str):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r} of type {type(key).__name__}; keys must be text")
            _refuse_unstable(item, f"{where}.{key}")
        return
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_unstable(item, f"{where}[{index}]")
        return
    raise TypeError(f"{where} is of type {type(value).__name__}, which has no stable form; use plain data")


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """Digest of a file's bytes, or of a folder's files under their names; hidden files and notes (*.md) do not count.

    Of files over 64 MiB in a folder (model weights) name, size, and the first and last MiB count: reading 140 GB
    at each start would cost more than it protects against.
    """
    if path.is_file():
        return file_digest(path)[:16]
    files = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_file() and not any(part.startswith(".") for part in name.split("/")) and file.suffix != ".md":
            files[name] = _ends_digest(file) if file.stat().st_size > LARGE_FILE_BYTES else file_digest(file)
    return fingerprint(files)


def _ends_digest(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(MIB))
        file.seek(size - MIB)
        digest.update(file.read(MIB))
    return f"{size} {digest.hexdigest()}"


@dataclass(frozen=True)
class Change:
    """One field that differs between two configurations."""

    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.field}: {_brief(self.before)} -> {_brief(self.after)}"


def _brief(value: Any) -> str:
    text = "(absent)" if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


ABSENT = object()


def drift(before: Any, after: Any, field: str = "") -> Iterator[Change]:
    """The fields that differ, by dotted name; lists are compared whole."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            name = f"{field}.{key}" if field else key
            yield from drift(before.get(key, ABSENT), after.get(key, ABSENT), name)
    elif before is ABSENT or after is ABSENT or canonical(before) != canonical(after):
        yield Change(field, before, after)
