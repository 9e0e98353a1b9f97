"""The mixture as tokens, written once and mapped by every worker: ids and loss mask, one after the other.

tokens/ids.bin      int32, all traces in a row
tokens/trained.bin  bool, whether a token is in the loss as a label
tokens/index.json   trace ids and lengths, written last
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.base.artifacts import read_json, write_json
from distill.base.chat import training_target
from distill.base.errors import InputError
from distill.base.records import Example

INDEX = "index.json"


@dataclass(frozen=True)
class Limits:
    """What a trace may not exceed. `tokens`: ids a trace; `vocabulary`: rows of the embedding."""

    tokens: int
    vocabulary: int


@dataclass(frozen=True)
class Tokens:
    """All traces. `starts`: [traces + 1] offsets into `ids` and `trained`."""

    names: list[str]
    starts: NDArray[np.int64]
    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each trace."""
        return [int(length) for length in np.diff(self.starts)]

    def labels(self, trace: int) -> int:
        """How many tokens of a trace are in the loss; the first has nothing before it and never is."""
        return int(self.trained[self.starts[trace] + 1 : self.starts[trace + 1]].sum())


def write_tokens(folder: Path, tokenizer: Any, examples: Iterable[Example], limits: Limits) -> None:
    """Tokenise a mixture; what an earlier call finished is kept.

    Raises:
        InputError: no examples, a trace that does not survive tokenisation, or traces beyond the limits (counted;
            nothing is dropped or cut).
    """
    if (folder / INDEX).is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names: list[str] = []
    lengths: list[int] = []
    highest = 0
    with (folder / "ids.bin").open("wb") as ids, (folder / "trained.bin").open("wb") as trained:
        for example in examples:
            try:
                target = training_target(tokenizer, example.messages)
            except InputError as error:
                raise InputError(f"trace {example.id}: {error}") from None
            np.asarray(target.ids, dtype=np.int32).tofile(ids)
            np.asarray(target.trained, dtype=np.bool_).tofile(trained)
            names.append(example.id)
            lengths.append(len(target.ids))
            highest = max(highest, *target.ids)
    _refuse(names, lengths, highest, limits)
    write_json(folder / INDEX, {"names": names, "lengths": lengths})


def _refuse(names: list[str], lengths: list[int], highest: int, limits: Limits) -> None:
    if not names:
        raise InputError("the mixture holds no examples, expected at least 1; loosen the filters (see the kept stage)")
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
    index = read_json(folder / INDEX)
    starts = np.concatenate([[0], np.cumsum(index["lengths"])]).astype(np.int64)
    return Tokens(
        index["names"],
        starts,
        np.memmap(folder / "ids.bin", dtype=np.int32, mode="r"),
        np.memmap(folder / "trained.bin", dtype=np.bool_, mode="r"),
    )
