"""Every error a user can meet: what was found, what was expected, and the way out.

DistillError (exit status 1: the run failed)
  InputError (also ValueError; exit status 2: the input is wrong)
    ConfigError     a configuration with one or more problems, all listed
    FileError       a file or folder that is missing, unreadable or not what it should be
    RowError        a row of a data file that cannot be used; names the line
    DriftError      a run folder that was made with another configuration
    BusyError       another process is working on the run
    DiskFullError   no space left; what was finished is kept
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


class DistillError(Exception):
    """Base of all errors that are shown to the user as one message, without a traceback."""

    exit_status = 1


class InputError(DistillError, ValueError):
    """The user's input is wrong; nothing was changed."""

    exit_status = 2


class ConfigError(InputError):
    """A configuration that cannot be used.

    Args:
        where: the file or command that the configuration came from.
        problems: one sentence a problem; all are shown.
    """

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where, self.problems = where, tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{where}: {count} found", *(f"  - {problem}" for problem in problems)]))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.where, self.problems)


class FileError(InputError):
    """A file or folder that is missing, unreadable or of the wrong kind."""


class RowError(InputError):
    """A row of a data file that cannot be used."""

    def __init__(self, path: Path, line: int, problem: str, remedy: str) -> None:
        self.parts = (path, line, problem, remedy)
        super().__init__(f"{path}, line {line}: {problem}. {remedy}")

    def __reduce__(self) -> tuple[type[RowError], tuple[Path, int, str, str]]:
        return type(self), self.parts


class DriftError(InputError):
    """A finished or half-written artifact was made with another configuration than the present one."""


class BusyError(InputError):
    """Another process holds the run's lock."""


class DiskFullError(InputError):
    """The disk is full. Finished artifacts and acknowledged rows are intact; the same command goes on."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that led to it, outermost first (Ray wraps what its workers raise)."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        context = None if current.__suppress_context__ else current.__context__
        pending += [context, current.__cause__, getattr(current, "cause", None)]
        pending += list(getattr(current, "worker_failures", {}).values())


def shown(error: BaseException) -> DistillError | None:
    """The user's error behind `error`, or None when there is none and a traceback is due."""
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, DistillError):
            return cause
    for cause in chain:
        if _is_full_disk(cause):
            where = f" while writing {name}" if (name := getattr(cause, "filename", None)) else ""
            return DiskFullError(
                f"the disk is full{where}. What was finished is kept; free some space and give the same command again"
            )
    if isinstance(error, OSError) and error.errno in UNUSABLE and error.filename:
        return FileError(f"{error.filename}: {error.strerror}; choose another place, or change its permissions")
    return None


def _is_full_disk(error: BaseException) -> bool:
    """Rust libraries (safetensors, tokenizers) raise their own errors, with the number in the text only."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"(os error {errno.ENOSPC})" in str(error) or f"(os error {errno.EDQUOT})" in str(error)


@contextlib.contextmanager
def loading(folder: Path | str, who: str = "") -> Iterator[None]:
    """What transformers raises while it loads a model, as the user's error; a full disk stays a full disk.

    Args:
        who: what the model is in the run ("teacher"), where a message about the folder alone would not tell.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(known := shown(error), DiskFullError):
            raise known from error
        name = f"{who}: " if who else ""
        if "custom code" in str(error):
            raise FileError(
                f"{name}{folder} asks for code of its own, which is never run; take a model whose architecture "
                "transformers has"
            ) from error
        raise FileError(f"{name}no model can be loaded from {folder}: {error}") from error
