"""The mixture as tokens: a `datasets` table on disk, written once and mapped, not read, by every worker."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.base.chat import Marks, training_target, turn_marks
from distill.base.errors import InputError

COLUMNS = datasets.Features(
    {
        "id": datasets.Value("string"),
        "ids": datasets.List(datasets.Value("int32")),
        "trained": datasets.List(datasets.Value("bool")),
        "length": datasets.Value("int32"),
        "labels": datasets.Value("int32"),
        "highest": datasets.Value("int32"),
    }
)
ROWS_FOR_PROCESSES = 10_000  # fewer are tokenised sooner than processes start


@dataclass(frozen=True)
class Limits:
    """What a trace may not exceed. `tokens`: ids a trace; `vocabulary`: rows of the embedding."""

    tokens: int
    vocabulary: int


@dataclass(frozen=True)
class Tokens:
    """All traces. `lengths`: tokens of each; `labels`: how many of them are in the loss."""

    rows: Any
    names: list[str]
    lengths: list[int]
    labels: list[int]

    def of(self, traces: tuple[int, ...]) -> tuple[list[NDArray[np.int32]], list[NDArray[np.bool_]]]:
        """Ids and loss masks of some traces, one array each."""
        found = self.rows[list(traces)]
        return list(found["ids"]), list(found["trained"])


def write_tokens(folder: Path, tokenizer: Any, mixture: Path, limits: Limits) -> None:
    """Tokenise a mixture (Parquet of `Example` rows); what an earlier call finished is kept.

    Raises:
        InputError: no examples, a trace that does not survive tokenisation, or traces beyond the limits (counted;
            nothing is dropped or cut).
    """
    if folder.is_dir():
        return
    work = folder.with_name(folder.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    datasets.disable_progress_bars()
    if pq.read_metadata(mixture).num_rows == 0:
        raise InputError("the mixture holds no examples, expected at least 1; loosen the filters (see the kept stage)")
    rows = datasets.Dataset.from_parquet(str(mixture), cache_dir=str(work / "cache"))
    encoded = rows.map(
        partial(_encoded, tokenizer, turn_marks(tokenizer)),
        remove_columns=[name for name in rows.column_names if name != "id"],
        features=COLUMNS,
        num_proc=os.cpu_count() if len(rows) > ROWS_FOR_PROCESSES else None,
        load_from_cache_file=False,
    )
    _refuse(encoded["id"][:], encoded["length"][:], max(encoded["highest"][:]), limits)
    encoded.save_to_disk(work / "table")
    os.replace(work / "table", folder)
    shutil.rmtree(work)


def _encoded(tokenizer: Any, marks: Marks, example: dict[str, Any]) -> dict[str, Any]:
    try:
        target = training_target(tokenizer, example["messages"], marks)
    except InputError as error:
        raise InputError(f"trace {example['id']}: {error}") from None
    return {
        "ids": target.ids,
        "trained": target.trained,
        "length": len(target.ids),
        "labels": sum(target.trained[1:]),  # the first token has nothing before it and is never predicted
        "highest": max(target.ids),
    }


def _refuse(names: list[str], lengths: list[int], highest: int, limits: Limits) -> None:
    if len(set(names)) != len(names):
        raise InputError(f"the mixture holds {len(names) - len(set(names))} trace ids twice; make the mixture again")
    too_long = [length for length in lengths if length > limits.tokens]
    if too_long:
        raise InputError(
            f"{len(too_long)} of {len(lengths)} traces are longer than {limits.tokens} tokens (the longest has "
            f"{max(too_long)}). Nothing is cut silently: raise max_tokens (and window, if the model allows), or let a "
            "length filter reject them in the kept stage"
        )
    if highest >= limits.vocabulary:
        raise InputError(
            f"the tokenizer gives token {highest}, the model's embedding has {limits.vocabulary} rows; "
            "use the tokenizer that belongs to the base"
        )


def open_tokens(folder: Path) -> Tokens:
    """What `write_tokens` wrote, mapped, not read."""
    rows = datasets.load_from_disk(str(folder))
    return Tokens(rows.with_format("numpy"), rows["id"][:], rows["length"][:], rows["labels"][:])
