"""Problems from reasoning-gym, addressed by absolute index so that no purpose can meet another's.

reasoning-gym draws item i of a dataset with Random(seed + i): a data set of seed s and one of seed s + 1
overlap in all but one item. Here a problem is its index (seed + i), and each purpose owns a range of indices.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HARVEST = range(0, 10_000_000)
SCORING = range(10_000_000, 20_000_000)
MAKING = range(20_000_000, 30_000_000)

DEMO_TASKS: dict[str, dict[str, Any]] = {
    "leg_counting": {"min_animals": 2, "max_animals": 5},
    "chain_sum": {"min_terms": 3, "max_terms": 4, "min_digits": 2, "max_digits": 2},
}


@dataclass(frozen=True)
class Problem:
    """One question with its exact answer; `dataset` and `index` (under the same params) find it again."""

    question: str
    answer: str
    dataset: str
    index: int


def span(purpose: range, offset: int, count: int) -> range:
    """The absolute indices `offset .. offset + count` within one purpose's range."""
    if offset < 0 or count < 0 or offset + count > len(purpose):
        raise ValueError(
            f"problems {offset}..{offset + count} leave their purpose's range of {len(purpose)} problems; "
            f"choose an offset of at least 0 and offset + count of at most {len(purpose)}"
        )
    return purpose[offset : offset + count]


def problems(dataset: str, params: Mapping[str, Any], first: int, count: int) -> list[Problem]:
    """The problems with absolute indices `first .. first + count` of a reasoning-gym dataset."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        near = difflib.get_close_matches(dataset, DATASETS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"one of them is {next(iter(DEMO_TASKS))!r}."
        raise ValueError(
            f"reasoning-gym has no dataset {dataset!r}; {hint} "
            "(print(sorted(reasoning_gym.factory.DATASETS)) lists all of them)"
        )
    if count <= 0:
        return []
    try:
        items = reasoning_gym.create_dataset(dataset, seed=first, size=count, **params)
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(_bad_params(dataset, params, error)) from error
    return [
        Problem(str(items[i]["question"]).strip(), str(items[i]["answer"]).strip(), dataset, first + i)
        for i in range(count)
    ]


def _bad_params(dataset: str, params: Mapping[str, Any], error: Exception) -> str:
    from dataclasses import fields

    from reasoning_gym.factory import DATASETS

    known = [f.name for f in fields(DATASETS[dataset][1]) if f.name not in ("seed", "size")]
    unknown = [name for name in params if name not in known]
    near = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.5) for name in unknown}
    hints = [f"{name!r} is unknown" + (f" (did you mean {n[0]}?)" if n else "") for name, n in near.items()]
    found = "; ".join(hints) or f"the values were refused: {error}"
    return f"reasoning-gym dataset {dataset!r} cannot take {dict(params)}: {found}. It takes: {', '.join(known)}"
