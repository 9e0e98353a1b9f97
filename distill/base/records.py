"""The rows that cross rooms, and how they lie in Parquet.

Text goes in and out as it is; lists of messages are `[{"role": ..., "content": ...}]`, the format that TRL,
LLaMA-Factory and axolotl read; free-form dictionaries are stored as JSON text so that
`datasets.load_dataset("parquet", ...)` opens every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import types
import typing
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

Message = dict[str, str]
AnswerKind = Literal["math", "numeric", "choice", "code", "exact", "json", "judge", "none"]
BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem that is put to a teacher, or a benchmark question that is put to every model.

    `id` is the hash of the normalised text of the messages; `answer` is the gold answer or None.
    """

    id: str
    messages: list[Message]
    answer: str | None
    answer_kind: str
    source: str
    licence: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What the user says, without roles."""
        return "\n".join(m["content"] for m in self.messages if m["role"] != "assistant")

    @property
    def question(self) -> str:
        """`text` without the instruction that a configuration put after it."""
        return str(self.meta.get("question", self.text))


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer of a teacher, or one failure to get it (`error` is set, the text is empty).

    `reasoning` is what stands between the think tags, `answer` what follows them; `thought` is False when the
    teacher's text had no think tags. `finish_reason` is "stop", "length" or "error". Costs are in US dollars.
    """

    id: str
    prompt_id: str
    sample_index: int
    reasoning: str
    answer: str
    finish_reason: str
    prompt_tokens: int
    reasoning_tokens: int
    completion_tokens: int
    cost_usd: float
    teacher: str
    sampling: dict[str, Any]
    seed: int
    attempts: int
    error: str | None = None
    thought: bool = True
    closed: bool = True
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one filter says of one trace: kept, rejected or unknown, why, and on what evidence."""

    trace_id: str
    filter: str
    version: int
    verdict: str
    reason: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One row of the training mixture: a conversation that ends with the teacher's turn, raw."""

    id: str
    prompt_id: str
    messages: list[Message]
    source: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer of one model to one question; `verdict` is right, wrong, unknown, truncated or errored."""

    question_id: str
    model: str
    sample_index: int
    response: str
    tokens: int
    finish: str
    verdict: str
    extracted: str
    reason: str

    RIGHT: ClassVar[str] = "right"


Row = TypeVar("Row", bound=Prompt | Trace | Verdict | Example | Outcome)


def normalise(text: str) -> str:
    """Text for comparison: NFKC, lower case, single spaces. Numbers are kept: they make problems differ."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def content_id(*parts: str | int) -> str:
    """16 hexadecimal digits that name content, never a position."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def prompt_id(messages: Sequence[Message]) -> str:
    """The id of a prompt: the same text in another file or at another place is the same prompt."""
    # Case and superscripts can make another problem ("A" and "a", 5² and 52), spacing and composition cannot.
    texts = [" ".join(unicodedata.normalize("NFC", m["content"]).split()) for m in messages]
    return content_id(*(part for m, text in zip(messages, texts, strict=True) for part in (m["role"], text)))


def _schema(cls: type[Any]) -> tuple[pa.Schema, tuple[str, ...]]:
    """Arrow schema of a row type, and the names of its JSON columns."""
    message = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    plain: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    hints = typing.get_type_hints(cls)
    columns, as_json = [], []
    for item in fields(cls):
        hint = hints[item.name]
        if isinstance(hint, types.UnionType):
            hint = next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        origin = typing.get_origin(hint)
        if origin is dict:
            as_json.append(item.name)
        columns.append((item.name, message if origin is list else plain.get(hint, pa.string())))
    return pa.schema(columns), tuple(as_json)


def write_rows(path: Path, cls: type[Row], rows: Iterable[Row]) -> int:
    """Write rows to one Parquet file, in batches; returns how many. The file appears whole or not at all."""
    schema, as_json = _schema(cls)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for batch in _batches(rows):
            try:
                arrow = _arrow(batch, schema, as_json, lambda text: text)
            except UnicodeEncodeError:
                arrow = _arrow(batch, schema, as_json, _encodable)
            writer.write_batch(arrow)
            count += len(batch)
    os.replace(partial, path)
    return count


def _arrow(
    batch: Sequence[Row], schema: pa.Schema, as_json: Sequence[str], clean: Callable[[Any], Any]
) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {name: [clean(getattr(row, name)) for row in batch] for name in schema.names}
    for name in as_json:
        columns[name] = [json.dumps(value, sort_keys=True) for value in columns[name]]
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def _encodable(value: Any) -> Any:
    """Text without lone surrogates, which JSON can carry and UTF-8 cannot."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


def read_rows(path: Path, cls: type[Row]) -> Iterator[Row]:
    """Rows of a Parquet file that `write_rows` made, a batch in memory at a time."""
    schema, as_json = _schema(cls)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=schema.names):
            for values in batch.to_pylist():
                for name in as_json:
                    values[name] = json.loads(values[name])
                yield cls(**values)


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
