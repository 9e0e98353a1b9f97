"""Where problems come from: reasoning-gym, JSON-lines files, files of stored completions.

Prompts for the teacher and questions for the benchmark are read by the same code; only their purpose differs,
and with it the range of reasoning-gym problems that they may use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from distill.base import gym
from distill.base.answers import final_answer
from distill.base.config import Config, DataPath
from distill.base.errors import FileError, InputError, RowError
from distill.base.records import AnswerKind, Prompt, prompt_id


class GymSource(Config):
    """Procedural problems of reasoning-gym, `count` in all, shared evenly between the tasks."""

    kind: Literal["gym"] = "gym"
    tasks: dict[str, dict[str, Any]] = Field(default=gym.DEMO_TASKS, min_length=1)
    count: int = Field(ge=1)
    offset: int = Field(0, ge=0)


class JsonlSource(Config):
    """A file with one JSON object a line."""

    kind: Literal["jsonl"] = "jsonl"
    path: DataPath
    question_field: str = "question"
    answer_field: str | None = "answer"
    answer_kind: AnswerKind = "math"
    licence: str = ""
    limit: int | None = Field(None, ge=1)


class StoredSource(Config):
    """The problems of a file of stored completions (the one that a `replay` teacher serves)."""

    kind: Literal["stored"] = "stored"
    path: DataPath
    prompt_field: str = "prompt_id"
    question_field: str = "question"
    answer_field: str | None = "gold"
    answer_kind: AnswerKind = "math"
    task_field: str | None = "dataset"
    licence: str = ""
    limit: int | None = Field(None, ge=1)


Source = Annotated[GymSource | JsonlSource | StoredSource, Field(discriminator="kind")]


def read_prompts(
    source: GymSource | JsonlSource | StoredSource, purpose: range, instruction: str = ""
) -> tuple[list[Prompt], int]:
    """All problems of a source in its order, equal ones once (the first), and how many equal ones were left out.

    Args:
        purpose: `gym.HARVEST` or `gym.SCORING`; ignored by files.
        instruction: put after each question, for example how to write the final answer.

    Raises:
        InputError: unknown task, missing file, a row that cannot be used (with its line), or nothing at all.
    """
    if isinstance(source, GymSource):
        found = list(_from_gym(source, purpose))
    elif isinstance(source, JsonlSource):
        found = list(_from_jsonl(source))
    else:
        found = list(_from_stored(source))
    prompts: dict[str, Prompt] = {}
    for prompt in found:
        prompts.setdefault(prompt.id, prompt)
    if not prompts:
        where = getattr(source, "path", "the source")
        raise InputError(f"{where}: holds no problems; expected at least one line with a question")
    asked = [_with_instruction(prompt, instruction) for prompt in prompts.values()] if instruction else prompts.values()
    return list(asked), len(found) - len(prompts)


def _prompt(question: str, answer: str | None, kind: str, source: str, licence: str, meta: dict[str, Any]) -> Prompt:
    messages = [{"role": "user", "content": question.strip()}]
    return Prompt(prompt_id(messages), messages, answer, kind if answer is not None else "none", source, licence, meta)


def _with_instruction(prompt: Prompt, instruction: str) -> Prompt:
    messages = [{"role": "user", "content": f"{prompt.text}\n\n{instruction}"}]
    return replace(prompt, id=prompt_id(messages), messages=messages, meta={**prompt.meta, "question": prompt.text})


def _from_gym(source: GymSource, purpose: range) -> Iterator[Prompt]:
    share, rest = divmod(source.count, len(source.tasks))
    for position, (task, params) in enumerate(source.tasks.items()):
        count = share + (position < rest)
        try:
            indices = gym.span(purpose, source.offset, count)
            problems = gym.problems(task, params, indices.start, count)
        except ValueError as error:
            raise InputError(str(error)) from None
        for problem in problems:
            meta = {"task": task, "index": problem.index}
            yield _prompt(problem.question, problem.answer, "math", f"reasoning-gym/{task}", "Apache-2.0", meta)


def _from_jsonl(source: JsonlSource) -> Iterator[Prompt]:
    for line, row in json_lines(source.path, source.limit):
        question = _text(source.path, line, row, source.question_field)
        yield _prompt(
            question, _gold(source.path, line, row, source.answer_field), source.answer_kind,
            source.path.name, source.licence, {"line": line},
        )  # fmt: skip


def _from_stored(source: StoredSource) -> Iterator[Prompt]:
    seen: set[str] = set()
    for line, row in json_lines(source.path):
        key = str(row.get(source.prompt_field, line))
        if key in seen or source.question_field not in row:
            continue
        seen.add(key)
        if source.limit is not None and len(seen) > source.limit:
            return
        question = _text(source.path, line, row, source.question_field)
        meta = {"stored_id": key, "task": str(row.get(source.task_field or "", ""))}
        yield _prompt(
            question, _gold(source.path, line, row, source.answer_field), source.answer_kind,
            source.path.name, source.licence, meta,
        )  # fmt: skip


def _text(path: Path, line: int, row: dict[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        found = f"it has {', '.join(sorted(row)) or 'no fields'}" if field not in row else f"it holds {value!r}"
        raise RowError(path, line, f"no text in the field {field!r}; {found}", "Name the field with question_field")
    return value


def _gold(path: Path, line: int, row: dict[str, Any], field: str | None) -> str | None:
    """The gold answer: a worked solution is cut down to its final answer (`#### 42`, `\\boxed{42}`)."""
    value = None if field is None else row.get(field)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(path, line, f"{field!r} holds {value!r}", "Expected the gold answer as text or a number")
    text = str(value).strip()
    return (final_answer(text) or text) if "####" in text or "\\boxed" in text else text


def json_lines(path: Path, limit: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of a JSON-lines file; blank lines are passed over.

    Raises:
        FileError: no such file.
        RowError: a line that is no JSON object; names the line.
    """
    if not path.is_file():
        raise FileError(f"{path}: no such file; expected one JSON object a line")
    count = 0
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw)
            except (ValueError, RecursionError) as error:
                raise RowError(path, line, f"not readable as JSON ({error})", "Mend or remove the line") from None
            if not isinstance(row, dict):
                raise RowError(path, line, f"holds a {type(row).__name__}", "Expected a JSON object")
            yield line, row
            count += 1
            if limit is not None and count >= limit:
                return
