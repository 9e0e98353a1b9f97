"""The functions that `reasoning.yaml` names: keep all k completions, judge each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evals.outcomes import Completion, judged


def keep_all(responses: Iterable[Sequence[str]], docs: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The filter of lm-eval: every completion of every question, raw, thought included."""
    return [list(samples) for samples in responses]


def process_results(doc: Mapping[str, Any], results: Sequence[Sequence[Completion]]) -> dict[str, float]:
    """One question's metrics from its k completions (`results[0]`); each a share of the k.

    A completion that errored is in no denominator; a question where all did counts as 0 in lm-eval's own table,
    and is left out of ours (`evals.outcomes.question_scores`).
    """
    verdicts = [judged(doc, completion).verdict for completion in results[0]]
    counted = [verdict for verdict in verdicts if verdict != "errored"]
    return {
        "pass_at_1": counted.count("right") / max(1, len(counted)),
        "pass_at_k": float("right" in counted),
        **{name: verdicts.count(name) / len(verdicts) for name in ("truncated", "unknown", "errored")},
    }
