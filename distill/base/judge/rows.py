"""`distill judge`: the product's judge on a file of predictions, one JSON line in, one JSON line out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.base.answers import RIGHT, UNKNOWN, WRONG, judge
from distill.base.errors import RowError
from distill.base.sources import json_lines

KINDS = ("math", "choice", "exact", "numeric")
EXPECTED = 'Expected {"id": ..., "gold": text, "prediction": text}, and "kind" if it is not math'


def verdicts(path: Path, counts: Counter[str]) -> Iterator[str]:
    """A line {id, verdict, extracted, reason} for each row {id, gold, prediction[, kind]} of the file, in its order.

    Args:
        counts: how many rows came to which verdict; filled as the rows go by.

    Raises:
        FileError: no such file.
        RowError: a row that cannot be used, with its line; nothing of it is guessed.
    """
    for line, row in json_lines(path):
        gold, prediction = (_text(path, line, row, field) for field in ("gold", "prediction"))
        kind = row.get("kind", "math")
        if not isinstance(kind, str) or kind.partition(":")[0] not in KINDS:
            raise RowError(path, line, f"the kind is {kind!r}", f"Expected one of {', '.join(KINDS)}")
        if not isinstance(row.get("id"), str | int):
            raise RowError(path, line, "no id (a text or a whole number)", EXPECTED)
        judged = judge(gold, prediction, kind)
        counts[judged.verdict] += 1
        # ASCII with escapes: a prediction can hold what a terminal would act on, or what is no Unicode text.
        yield json.dumps(
            {"id": row["id"], "verdict": judged.verdict, "extracted": judged.extracted, "reason": judged.reason}
        )


def _text(path: Path, line: int, row: dict[str, Any], field: str) -> str:
    value = row.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # golds are often stored as numbers
    if not isinstance(value, str):
        raise RowError(path, line, f"no text in the field {field!r}", EXPECTED)
    return value


def summary(counts: Counter[str]) -> str:
    """One line: how many rows, and how many of each verdict."""
    shares = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (RIGHT, WRONG, UNKNOWN))
    return f"{sum(counts.values())} judged: {shares}"
