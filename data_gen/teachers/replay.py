"""Stored completions served as if sampled: sample j of a prompt is its j-th row in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from data_gen.teachers.base import Request, Sampling, failed
from distill.base import chat
from distill.base.config import Config, DataPath
from distill.base.errors import InputError
from distill.base.records import Trace
from distill.base.sources import json_lines


class ReplayTeacher(Config):
    """A JSON-lines file of completions, and which fields hold what (null: the file has no such field).

    `label_field`: someone's verdict on the completion; the report compares ours with it.
    `cut_field`: set on rows whose text was cut.
    """

    kind: Literal["replay"] = "replay"
    path: DataPath
    prompt_field: str = "prompt_id"
    completion_field: str = "completion"
    model_field: str | None = "model"
    label_field: str | None = "correct"
    tokens_field: str | None = None
    cut_field: str | None = None

    name: ClassVar[str] = "replay"
    batch_size: ClassVar[int] = 256
    scorable: ClassVar[None] = None
    revision: ClassVar[None] = None

    def placed(self) -> ReplayTeacher:
        """The same teacher for a worker in another folder."""
        return self.model_copy(update={"path": self.path.resolve()})


def stored_count(config: ReplayTeacher) -> dict[str, int]:
    """How many completions the file holds of each prompt."""
    return dict(Counter(str(row.get(config.prompt_field, line)) for line, row in json_lines(config.path)))


class ReplaySampler:
    """Holds the file's completions by prompt."""

    def __init__(self, config: ReplayTeacher, sampling: Sampling) -> None:
        self.config = config
        self.sampling = sampling.identity()
        self.rows: dict[str, list[dict[str, Any]]] = {}
        for line, row in json_lines(config.path):
            self.rows.setdefault(str(row.get(config.prompt_field, line)), []).append(row)

    def sample(self, requests: Sequence[Request], seed: int) -> list[Trace]:
        return [self._trace(request, seed) for request in requests]

    def _trace(self, request: Request, seed: int) -> Trace:
        stored = self.rows.get(str(request.prompt.meta.get("stored_id")), [])
        if request.sample_index >= len(stored):
            reason = f"the file holds {len(stored)} completions of this prompt"
            return failed(request, self.config.name, self.sampling, seed, reason)
        row = stored[request.sample_index]
        text = row.get(self.config.completion_field)
        if not isinstance(text, str):
            return failed(request, self.config.name, self.sampling, seed, "the stored completion is no text")
        parts = chat.split_thought(text)
        label = row.get(self.config.label_field or "")
        return Trace(
            id=request.id, prompt_id=request.prompt.id, sample_index=request.sample_index,
            reasoning=parts.reasoning, answer=parts.answer,
            finish_reason="length" if row.get(self.config.cut_field or "") else "stop",
            prompt_tokens=0, reasoning_tokens=0, completion_tokens=_count(row.get(self.config.tokens_field or "")),
            cost_usd=0.0, teacher=str(row.get(self.config.model_field or "", self.config.name)),
            sampling=self.sampling, seed=seed, attempts=1, thought=parts.thought, closed=parts.closed,
            meta={} if label is None else {"label": label in (True, "true", "True", "1", "correct")},
        )  # fmt: skip


def _count(value: Any) -> int:
    """A number of tokens, 0 where the file holds none."""
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0


def check(config: ReplayTeacher) -> list[str]:
    """Problems with the stored file."""
    try:
        _, row = next(json_lines(config.path), (0, {}))
    except InputError as error:
        return [str(error)]
    missing = [name for name in (config.prompt_field, config.completion_field) if name not in row]
    if missing:
        absent = " and no ".join(map(repr, missing))
        return [f"{config.path}: the first row has no {absent}; it has {', '.join(sorted(row))}"]
    return []
