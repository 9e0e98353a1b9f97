"""Checkpoints that are whole or ignored.

    checkpoints/step-00000040/            DeepSpeed's files and manifest.json, whole by its rename
    checkpoints/step-00000050.partial/    being written, or left by a crash

The manifest lists every file with size and (up to 64 MiB) digest. On restart the newest folder that matches its
manifest counts; the two newest are kept. A checkpoint holds no position and no random state beyond the number of
steps: order, learning rate and seeds are functions of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.base.artifacts import read_json, sync_folder, write_json
from distill.base.errors import BusyError, FileError, InputError
from distill.base.fingerprint import LARGE_FILE_BYTES, file_digest
from distill.train.engine import Engine, World

MANIFEST = "manifest.json"
KEPT = 2
LOCK_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Layout:
    """How a state is cut into files; another layout cannot take it up."""

    workers: int
    zero_stage: int
    offload: bool


class Checkpoints:
    """The checkpoints of one training; every worker calls each method."""

    def __init__(self, folder: Path, layout: Layout, engine: Engine, world: World, say: Callable[[str], None]) -> None:
        self.folder, self.layout, self.engine, self.world, self.say = folder, layout, engine, world, say

    def restore(self) -> int:
        """Take up the newest whole checkpoint; returns how many steps are done.

        Raises:
            InputError: it was written by another number of workers or ZeRO stage.
        """
        found = self._newest() if self.world.first else 0
        step = int(self.world.sums(found)[0])
        if step == 0:
            return 0
        saved = read_json(self.folder / _name(step) / MANIFEST)["layout"]
        if saved != asdict(self.layout):
            raise InputError(
                f"{self.folder}: holds a state of {saved}, this run has {asdict(self.layout)}, and DeepSpeed cannot "
                "re-cut it. Set these back to go on, or start over with --rebuild student"
            )
        self.engine.load(self.folder, _name(step))
        if self.world.first:
            self.say(f"going on after step {step}")
        return step

    def save(self, step: int) -> None:
        """Keep the state after `step` steps.

        Raises:
            OSError: no space; the checkpoints before it are intact.
        """
        partial = self.folder / (_name(step) + ".partial")
        if self.world.first:
            shutil.rmtree(partial, ignore_errors=True)
        self.world.wait()
        try:
            self.engine.save(self.folder, partial.name)
            if self.world.first:
                self._complete(partial, step)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.world.wait()

    def _complete(self, partial: Path, step: int) -> None:
        files = {file.name: _facts(file) for file in sorted(partial.iterdir())}
        write_json(partial / MANIFEST, {"step": step, "layout": asdict(self.layout), "files": files})
        final = self.folder / _name(step)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        sync_folder(self.folder)
        for old in _finished(self.folder)[KEPT:]:
            shutil.rmtree(old)

    def _newest(self) -> int:
        """Steps of the newest whole checkpoint, 0 without one; clears away what is not whole."""
        for left in self.folder.glob("step-*.partial"):
            shutil.rmtree(left)
        for folder in _finished(self.folder):
            problem = _problem(folder)
            if problem is None:
                return int(folder.name.removeprefix("step-"))
            self.say(f"{folder.name} is not whole ({problem}); using the one before it")
            shutil.rmtree(folder)
        return 0


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _finished(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted((found for found in folder.glob("step-*") if found.suffix != ".partial"), reverse=True)


def _facts(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    return {"bytes": size, "sha256": file_digest(file) if size <= LARGE_FILE_BYTES else None}


def _problem(folder: Path) -> str | None:
    """What is missing or damaged."""
    try:
        files: dict[str, dict[str, Any]] = read_json(folder / MANIFEST)["files"]
    except (FileError, KeyError, TypeError):
        return "its manifest is missing or torn"
    for name, facts in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _facts(folder / name) != facts:
            return f"{name} is damaged"
    return None


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold a worker's place; waits for workers of a killed run to end.

    Raises:
        BusyError: they do not.
    """
    with lock.open("a") as file:
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"{lock}: another process has been training here for {LOCK_PATIENCE_SECONDS:.0f} s; "
                        "end it, then give the same command again"
                    ) from None
                time.sleep(0.5)
        yield
