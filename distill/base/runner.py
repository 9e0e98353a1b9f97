"""Makes the artifacts of a run in order: done, missing, changed or half-written; one lock a run."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from distill.base.artifacts import (
    IDENTITY,
    RECORD,
    Artifact,
    Made,
    finish_artifact,
    open_artifact,
    read_json,
    remove,
    write_json,
)
from distill.base.config import Config
from distill.base.errors import BusyError, DriftError, InputError
from distill.base.fingerprint import drift
from distill.base.progress import Progress

RECORDED_PACKAGES = (
    "torch", "transformers", "datasets", "accelerate", "bitsandbytes", "deepspeed", "lm-eval", "ray",
    "peft", "reasoning-gym", "math-verify",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One row of the table in `distill/pipeline.py`.

    `make` is "module:function" with the signature `(config, inputs, out, progress) -> Made`; the module is
    imported when the stage runs. `version` goes up when the code gives other results for the same config.
    `resumes_over_changes`: its half-written work is keyed by content (the ledger), so it survives a changed
    config; everything else is made anew.
    """

    name: str
    make: str
    inputs: tuple[str, ...]
    version: int = 1
    check: str | None = None
    resumes_over_changes: bool = False


def load(target: str) -> Callable[..., Any]:
    """The function behind "module:function"."""
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def folder(run: Path, stages: Sequence[Stage], name: str) -> Path:
    """Where a stage's artifact lies: `<run>/<NN>_<stage>`."""
    position = [stage.name for stage in stages].index(name) + 1
    return run / f"{position:02d}_{name}"


def partial_of(final: Path) -> Path:
    """Where the artifact lies while it is being made."""
    return final.with_name(final.name + ".partial")


def state(final: Path) -> str:
    """ "done", "partial" or "absent"."""
    if (final / RECORD).is_file():
        return "done"
    return "partial" if partial_of(final).is_dir() else "absent"


def finished(run: Path, stages: Sequence[Stage]) -> dict[str, Artifact]:
    """The artifacts of a run that are done, by stage, in order."""
    paths = {stage.name: folder(run, stages, stage.name) for stage in stages}
    return {name: open_artifact(path) for name, path in paths.items() if state(path) == "done"}


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Hold the run for this process; the lock ends with the process, however it ends.

    Raises:
        BusyError: another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BusyError(
                f"{run}: process {file.read().strip() or 'unknown'} is working on this run. "
                "Wait for it, stop it, or choose another --name"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def run_stages(
    stages: Sequence[Stage],
    configs: Mapping[str, Config],
    run: Path,
    *,
    rebuild: Collection[str] = (),
    keep: Collection[str] = (),
    before_work: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> dict[str, Artifact]:
    """Make what is missing, in order; returns all artifacts by stage.

    Args:
        rebuild: stages to make again although they are done.
        keep: stages to use as they are although their configuration has changed.
        before_work: called once before the first stage that has to be made (the preflight).

    Raises:
        DriftError: an artifact was made with another configuration; names the fields and the ways out.
        BusyError: another process works on the run.
    """
    with lock(run):
        done: dict[str, Artifact] = {}
        worked = False
        for stage in stages:
            final = folder(run, stages, stage.name)
            identity = _identity(stage, configs[stage.name], done)
            if stage.name in rebuild:
                _discard(stage, final, identity)
            artifact = _reuse(stage, final, identity, keep)
            if artifact is None:
                if not worked:
                    before_work()
                    worked = True
                artifact = _make(stage, configs[stage.name], done, final, identity)
                say(f"{stage.name}: {artifact.record.rows_out} rows in {artifact.record.seconds:.0f} s -> {final}")
            done[stage.name] = artifact
        if not worked:
            say(f"{run}: all {len(done)} stages are done; nothing to do")
        return done


def _identity(stage: Stage, config: Config, done: Mapping[str, Artifact]) -> dict[str, Any]:
    return {
        "config": config.identity(),
        "inputs": {name: done[name].id for name in stage.inputs},
        "version": stage.version,
    }


def _discard(stage: Stage, final: Path, identity: dict[str, Any]) -> None:
    """Drop what was made, but not what was paid for: a ledger goes on under the new configuration."""
    partial = partial_of(final)
    if stage.resumes_over_changes:
        if final.is_dir():
            (final / RECORD).unlink(missing_ok=True)
            os.replace(final, partial)
        if partial.is_dir():
            write_json(partial / IDENTITY, identity)
        return
    for path in (final, partial):
        if path.is_dir():
            remove(path)


def _reuse(stage: Stage, final: Path, identity: dict[str, Any], keep: Collection[str]) -> Artifact | None:
    """The finished artifact if it is the one that the configuration asks for."""
    if state(final) == "done":
        artifact = open_artifact(final)
        before = artifact.record.identity
    elif (partial_of(final) / IDENTITY).is_file():
        artifact = None
        before = read_json(partial_of(final) / IDENTITY)
    else:
        return None
    changes = [str(change) for change in drift(before, identity)]
    if not changes:
        return artifact
    if artifact is not None and stage.name in keep:
        kept = replace(artifact.record, kept_despite=changes)
        write_json(final / RECORD, asdict(kept))
        return Artifact(final, kept)
    raise DriftError(_drift_message(stage, final, artifact is not None, changes))


def _drift_message(stage: Stage, final: Path, is_done: bool, changes: Sequence[str]) -> str:
    made = "was made" if is_done else "is half-made"
    exits = [
        "--name NEW          a new run beside this one",
        f"--rebuild {stage.name:<9} "
        + ("make it again; what was paid for is not bought twice" if stage.resumes_over_changes else "make it again"),
    ]
    if is_done:
        exits.append(f"--keep {stage.name:<12} use it as it is; the report will say so")
    return "\n".join(
        [
            f"{final}: {made} with another configuration. Changed:",
            *(f"  - {change.replace('config.', f'{stage.name}.', 1)}" for change in changes),
            "Ways out:",
            *(f"  {way}" for way in exits),
        ]
    )


def _make(
    stage: Stage, config: Config, done: Mapping[str, Artifact], final: Path, identity: dict[str, Any]
) -> Artifact:
    partial = partial_of(final)
    if (final / RECORD).exists():
        raise InputError(f"{final}: already there")
    partial.mkdir(parents=True, exist_ok=True)
    write_json(partial / IDENTITY, identity)
    started = time.monotonic()
    made: Made = load(stage.make)(config, {name: done[name] for name in stage.inputs}, partial, Progress(stage.name))
    return finish_artifact(partial, final, stage.name, identity, made, _versions(), time.monotonic() - started)


def _versions() -> dict[str, str]:
    versions = {}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
