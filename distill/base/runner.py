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
from typing import Any, Literal

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

    `unfinished` says what becomes of half-written work when the configuration has changed meanwhile: "discard" it,
    "guard" it (the run stops, it took long), or "continue" with it (the ledger: keyed by content, it fits any).
    `on_change`: "stop" with the changed fields, or "remake" what costs nothing.
    """

    name: str
    make: str
    inputs: tuple[str, ...]
    version: int = 1
    check: str | None = None
    unfinished: Literal["discard", "guard", "continue"] = "discard"
    on_change: Literal["stop", "remake"] = "stop"


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
        rebuild: stages to make again although they are done; what was made from them follows.
        keep: stages to use as they are although their configuration has changed.
        before_work: called once before the first stage that has to be made (the preflight).

    Raises:
        DriftError: an artifact was made with another configuration; names the fields and the ways out.
        BusyError: another process works on the run.
    """
    with lock(run):
        done: dict[str, Artifact] = {}
        made: set[str] = set()
        for stage in stages:
            final = folder(run, stages, stage.name)
            identity = _identity(stage, configs[stage.name], done)
            artifact = None
            if stage.name not in rebuild:
                artifact = _reuse(stage, final, identity, keep, made)
            if artifact is None:
                if not made:
                    before_work()
                _prepare(stage, final, identity, anew=stage.name in rebuild)
                artifact = _make(stage, configs[stage.name], done, final, identity)
                made.add(stage.name)
                say(f"{stage.name}: {artifact.record.rows_out} rows in {artifact.record.seconds:.0f} s -> {final}")
            done[stage.name] = artifact
        if not made:
            say(f"{run}: all {len(done)} stages are done; nothing to do")
        return done


def _identity(stage: Stage, config: Config, done: Mapping[str, Artifact]) -> dict[str, Any]:
    identity = {
        "config": config.identity(),
        "inputs": {name: done[name].id for name in stage.inputs},
        "version": stage.version,
    }
    if stage.on_change == "remake":
        identity["kept"] = {name: done[name].record.kept_despite for name in stage.inputs}
    return identity


def _reuse(
    stage: Stage, final: Path, identity: dict[str, Any], keep: Collection[str], made: Collection[str]
) -> Artifact | None:
    """The finished artifact if it is the one that the configuration asks for; None if it has to be made.

    Raises:
        DriftError: it is another one, or half of another one that took long to make.
    """
    if state(final) == "done":
        artifact = open_artifact(final)
        before = artifact.record.identity
    elif (partial_of(final) / IDENTITY).is_file() and stage.unfinished == "guard":
        artifact = None
        before = read_json(partial_of(final) / IDENTITY)
    else:
        return None
    changes = list(drift(before, identity))
    shown = [str(change) for change in changes]
    if artifact is not None and (not changes or stage.name in keep):
        return _kept(artifact, shown)
    follows = all(change.field.removeprefix("inputs.") in made for change in changes)
    if stage.on_change == "remake" or (changes and follows) or not changes:
        return None
    raise DriftError(_drift_message(stage, final, artifact is not None, shown))


def _kept(artifact: Artifact, changes: list[str]) -> Artifact:
    """The artifact, with the changes that it was kept despite (none, when the settings are its own again)."""
    if artifact.record.kept_despite == changes:
        return artifact
    record = replace(artifact.record, kept_despite=changes)
    write_json(artifact.path / RECORD, asdict(record))
    return Artifact(artifact.path, record)


def _prepare(stage: Stage, final: Path, identity: dict[str, Any], *, anew: bool) -> None:
    """Leave a `.partial` folder that holds only what may go into this artifact.

    What was paid for stays: a ledger is keyed by content and goes on under any configuration.
    """
    partial = partial_of(final)
    if state(final) == "done":
        if stage.unfinished == "continue":
            os.replace(final, partial)
        else:
            remove(final)
    elif final.exists():
        raise InputError(f"{final}: holds no {RECORD}, so it was not made here; move it away")
    if partial.is_dir() and stage.unfinished != "continue":
        mark = partial / IDENTITY
        same = mark.is_file() and not list(drift(read_json(mark), identity))
        if anew or not same:
            remove(partial)
    partial.mkdir(parents=True, exist_ok=True)
    (partial / RECORD).unlink(missing_ok=True)
    write_json(partial / IDENTITY, identity)


def _drift_message(stage: Stage, final: Path, is_done: bool, changes: Sequence[str]) -> str:
    made = "was made" if is_done else "is half-made"
    exits = [
        "--name NEW          a new run beside this one",
        f"--rebuild {stage.name:<9} make it again, and what was made from it"
        + ("; what was paid for is not bought twice" if stage.unfinished == "continue" else ""),
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
    started = time.monotonic()
    made: Made = load(stage.make)(config, {name: done[name] for name in stage.inputs}, partial, Progress(stage.name))
    return finish_artifact(partial, final, stage.name, identity, made, _versions(), time.monotonic() - started)


def _versions() -> dict[str, str]:
    versions = {}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
