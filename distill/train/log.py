"""What a training leaves to read: one line a step, which traces were trained when, and the sums of both.

log.jsonl        step, epoch, loss, learning rate, gradient norm, tokens, padding, seconds
samples.jsonl    step, epoch, ids of the traces
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from distill.base.artifacts import append_json
from distill.base.errors import DistillError
from distill.base.progress import Progress

LOG, SAMPLES, MESSAGES = "log.jsonl", "samples.jsonl", "messages.txt"
CURVE_POINTS = 200
POLL_SECONDS = 0.5


class StepLog:
    """Lines of the steps that count; lines after `done` steps belong to work that was lost and are dropped."""

    def __init__(self, out: Path, done: int) -> None:
        self.files = [out / LOG, out / SAMPLES]
        for file in self.files:
            file.touch()
            kept = file.read_bytes().splitlines(keepends=True)[:done]
            if len(kept) != done or (kept and json.loads(kept[-1])["step"] != done):
                raise DistillError(f"{file}: {len(kept)} lines for {done} steps; start over with --rebuild student")
            os.truncate(file, sum(len(line) for line in kept))

    def add(self, facts: dict[str, Any], traces: Iterable[str]) -> None:
        """One finished step."""
        append_json(self.files[0], [facts])
        append_json(self.files[1], [{"step": facts["step"], "epoch": facts["epoch"], "traces": list(traces)}])

    def sync(self) -> None:
        """On disk when this returns: a checkpoint must never be ahead of its lines."""
        for file in self.files:
            with file.open("rb") as written:
                os.fsync(written.fileno())


def rows(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a torn last one is left out."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []:
        if not line.endswith("\n"):
            break
        found.append(json.loads(line))
    return found


def times_trained(out: Path) -> Counter[str]:
    """How many times each trace was trained."""
    return Counter(trace for row in rows(out / SAMPLES) for trace in row["traces"])


def check_times(out: Path, names: Sequence[str], epochs: int) -> None:
    """Every trace was trained once an epoch.

    Raises:
        DistillError: one was not; the weights must not be used.
    """
    times = times_trained(out)
    wrong = [name for name in names if times[name] != epochs]
    if wrong or len(times) != len(names):
        raise DistillError(
            f"{out / SAMPLES}: {len(wrong)} of {len(names)} traces were not trained {epochs} times (first: "
            f"{wrong[:1] or sorted(set(times) - set(names))[:1]}); start over with --rebuild student and report this"
        )


def sums(out: Path) -> dict[str, Any]:
    """The log in short: losses, tokens, seconds, a curve of at most 200 points."""
    lines = rows(out / LOG)
    seconds = sum(line["seconds"] for line in lines)
    tokens = sum(line["tokens"] for line in lines)
    trained = sum(line["trained_tokens"] for line in lines)
    stride = -(-len(lines) // CURVE_POINTS)
    last = lines[-max(1, len(lines) // 20) :]
    return {
        "steps": len(lines),
        "tokens": tokens,
        "trained_tokens": trained,
        "trained_share": round(trained / tokens, 4),
        "loss_first": lines[0]["loss"],
        "loss_last": round(sum(line["loss"] for line in last) / len(last), 6),
        "curve": [[line["step"], line["loss"]] for line in lines[::stride]],
        "seconds_training": round(seconds, 3),
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
    }


class Watch:
    """Shows on the driver what the workers write, while they work."""

    def __init__(self, out: Path, messages: Path, steps: int, progress: Progress) -> None:
        self.out, self.messages, self.steps, self.progress = out, messages, steps, progress
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._said = len(_lines(messages))
        self._shown = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(POLL_SECONDS):
            self._show()
        self._show()

    def _show(self) -> None:
        told = _lines(self.messages)
        for line in told[self._said :]:
            self.progress.say(line)
        self._said = max(self._said, len(told))
        last = _last_row(self.out / LOG)
        if last is not None and last["step"] != self._shown:
            self._shown = last["step"]
            facts = f"loss {last['loss']:.4f}, {last['tokens_per_second']:.0f} tokens/s"
            self.progress.update(last["step"], self.steps, "steps", facts)


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def _last_row(file: Path) -> dict[str, Any] | None:
    """The last whole line, from the file's end: the log may be long."""
    if not file.is_file():
        return None
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - 4096))
        whole = log.read().decode("utf-8", errors="replace").split("\n")[1:-1] or [""]
    try:
        found: dict[str, Any] = json.loads(whole[-1])
    except json.JSONDecodeError:
        return None
    return found
