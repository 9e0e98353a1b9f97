"""sources -> questions: the benchmark, fixed before anything else so that no prompt can be one of them."""

from __future__ import annotations

from pathlib import Path

from distill.base.artifacts import Inputs, Made
from distill.base.config import Config
from distill.base.errors import InputError
from distill.base.gym import SCORING
from distill.base.progress import Progress
from distill.base.records import Prompt, write_rows
from distill.base.sources import Source, read_prompts


class QuestionsConfig(Config):
    """Where the benchmark questions come from, and what is put after each."""

    source: Source
    instruction: str = ""


def questions(config: QuestionsConfig, inputs: Inputs, out: Path, progress: Progress) -> Made:
    """Read the questions; one without a gold answer is an error, it could never be scored."""
    found, equal = _with_gold(config)
    write_rows(out / "questions.parquet", Prompt, found)
    by_source: dict[str, int] = {}
    for question in found:
        by_source[question.source] = by_source.get(question.source, 0) + 1
    rejected = {"duplicate: same text as an earlier question": equal} if equal else {}
    return Made(len(found) + equal, len(found), rejected, {"by_source": by_source})


def _with_gold(config: QuestionsConfig) -> tuple[list[Prompt], int]:
    found, equal = read_prompts(config.source, SCORING, config.instruction)
    without = [question for question in found if question.answer is None]
    if without:
        raise InputError(
            f"{len(without)} of {len(found)} benchmark questions have no gold answer, for example "
            f"{without[0].text[:60]!r}; name the field with questions.source.answer_field"
        )
    return found, equal


def check(config: QuestionsConfig) -> list[str]:
    """Problems with the source, found by reading it."""
    try:
        _with_gold(config)
    except InputError as error:
        return [str(error)]
    return []
