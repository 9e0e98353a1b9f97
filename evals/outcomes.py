"""Completions -> judged outcomes -> one model's score.

What counts how:

    right       the judge says so, of a completion that came to its end
    wrong       likewise
    unknown     the judge cannot say: never right, but in the denominator, so it cannot raise a score
    truncated   no end within the budget, or a thought that was never closed: not right, counted by itself
    errored     the question could not be put to the model: in no denominator
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.base.answers import judge
from distill.base.chat import split_thought
from distill.base.errors import InputError
from distill.base.records import Outcome, normalise
from evals import stats

TASK, TASK_VERSION = "distill_reasoning", 1


class Completion(str):
    """A model's raw text that knows how it came about; lm-eval carries it through as the text that it is.

    `tokens`: how many tokens were generated, the stop token included. `finish`: "stop", "length" or "error".
    `note`: why there is no text, when `finish` is "error". `judgement` is filled in by `judged`, once.
    """

    tokens: int
    finish: str
    note: str
    judgement: Judged | None

    def __new__(cls, text: str, tokens: int, finish: str, note: str = "") -> Completion:
        self = super().__new__(cls, text)
        self.tokens, self.finish, self.note, self.judgement = tokens, finish, note, None
        return self


@dataclass(frozen=True, slots=True)
class Judged:
    """What one completion is worth, why, and which answer was found in it."""

    verdict: str
    extracted: str
    reason: str


def judged(doc: Mapping[str, Any], completion: Completion) -> Judged:
    """Judge one completion of a question; the judge is asked once, however often this is called.

    Args:
        doc: a row of the task's data set: `prompt`, `answer` (None: no gold answer), `kind`.
    """
    if completion.judgement is None:
        completion.judgement = _judged(doc, completion)
    return completion.judgement


def _judged(doc: Mapping[str, Any], completion: Completion) -> Judged:
    if completion.finish == "error":
        return Judged("errored", "", completion.note)
    if completion.finish == "length":
        return Judged("truncated", "", f"no end within {completion.tokens} tokens")
    if not split_thought(completion, opened=opens_thought(doc["prompt"])).closed:
        return Judged("truncated", "", "the thought was never closed")
    if doc["answer"] is None:
        return Judged("unknown", "", "the question has no gold answer")
    judgement = judge(doc["answer"], str(completion), doc["kind"])
    return Judged(judgement.verdict, judgement.extracted or "", judgement.reason)


def opens_thought(prompt: str) -> bool:
    """Whether the template has opened the thought already (R1-Distill's does)."""
    return prompt.rstrip().endswith("<think>")


def outcome(doc: Mapping[str, Any], model: str, index: int, completion: Completion) -> Outcome:
    """The row of one completion."""
    result = judged(doc, completion)
    return Outcome(
        question_id=doc["id"],
        model=model,
        sample_index=index,
        response=str(completion),
        tokens=completion.tokens,
        finish=completion.finish,
        verdict=result.verdict,
        extracted=result.extracted,
        reason=result.reason,
    )


def by_question(rows: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """A model's rows, by question."""
    grouped: dict[str, list[Outcome]] = defaultdict(list)
    for row in rows:
        grouped[row.question_id].append(row)
    return dict(grouped)


def question_scores(rows: Iterable[Outcome]) -> dict[str, float]:
    """Share of right answers of each question, among those that did not error; all errored: left out."""
    scores = {}
    for question, samples in by_question(rows).items():
        counted = [row.verdict == Outcome.RIGHT for row in samples if row.verdict != "errored"]
        if counted:
            scores[question] = sum(counted) / len(counted)
    return scores


def majority(samples: Sequence[Outcome]) -> float:
    """1 when the answer given most often is right (cons@k), a share when several are tied, else 0.

    Right answers are one answer, however they are written; wrong ones are told apart by their normalised text;
    truncated, unknown and errored samples do not vote.
    """
    votes = Counter(
        "" if row.verdict == Outcome.RIGHT else f"= {normalise(row.extracted)}"
        for row in samples
        if row.verdict in ("right", "wrong")
    )
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    return 1 / len(tied) if "" in tied else 0.0


def score(rows: Sequence[Outcome]) -> dict[str, Any]:
    """One model's summary: n questions, k samples each, pass@1 with its 95% interval, and what went how.

    pass@1 is the mean over questions of the share of right samples; its interval is clustered by question
    (`stats.score_interval`). `pass_at_k`: questions with at least one right sample. Shares are of all samples.
    """
    grouped = by_question(rows)
    scores = question_scores(rows)
    counted = [samples for question, samples in grouped.items() if question in scores]
    k = max((len(samples) for samples in grouped.values()), default=0)
    shares = Counter(row.verdict for row in rows)
    generated = [row.tokens for row in rows if row.verdict != "errored"]
    facts: dict[str, Any] = {"n": len(scores), "k": k, "samples": len(rows)}
    if scores:
        low, high = stats.score_interval(list(scores.values()), k)
        facts |= {
            "pass_at_1": sum(scores.values()) / len(scores),
            "low": low,
            "high": high,
            "pass_at_k": sum(any(row.verdict == "right" for row in s) for s in counted) / len(counted),
            "majority_at_k": sum(map(majority, counted)) / len(counted),
        }
    else:
        facts |= dict.fromkeys(("pass_at_1", "low", "high", "pass_at_k", "majority_at_k"))
    facts |= {name: shares[name] / max(1, len(rows)) for name in ("truncated", "unknown", "errored")}
    return facts | {"mean_tokens": sum(generated) / len(generated) if generated else None}


def compared(
    a: str, b: str, rows_a: Sequence[Outcome], rows_b: Sequence[Outcome], margin: float, seed: int
) -> dict[str, Any]:
    """Model `b` against model `a` on the same questions, as plain data for the report.

    Positive differences mean that `b` is the better one. `p` and the verdict still lack the correction for several
    comparisons; `stats.settle` adds it.

    Raises:
        InputError: the two were not asked the same questions the same number of times.
    """
    refuse_unequal(a, b, rows_a, rows_b)
    scores_a, scores_b = question_scores(rows_a), question_scores(rows_b)
    shared = sorted(scores_a.keys() & scores_b.keys())
    if not shared:
        raise InputError(f"{a} and {b} cannot be compared: no question was answered without an error by both")
    paired = stats.paired([scores_b[q] - scores_a[q] for q in shared], margin=margin, seed=seed)
    grouped_a, grouped_b = by_question(rows_a), by_question(rows_b)
    moves = Counter((majority(grouped_a[q]) > 0.5, majority(grouped_b[q]) > 0.5) for q in shared)
    return {
        "a": a,
        "b": b,
        "questions": len(shared),
        **paired,
        "flips": {"right_to_wrong": moves[True, False], "wrong_to_right": moves[False, True]},
    }


def refuse_unequal(a: str, b: str, rows_a: Iterable[Outcome], rows_b: Iterable[Outcome]) -> None:
    """Raise InputError unless both models were asked the same questions the same number of times."""
    asked_a = {question: len(samples) for question, samples in by_question(rows_a).items()}
    asked_b = {question: len(samples) for question, samples in by_question(rows_b).items()}
    if asked_a == asked_b:
        return
    only_a, only_b = sorted(asked_a.keys() - asked_b.keys()), sorted(asked_b.keys() - asked_a.keys())
    other = sum(asked_a[q] != asked_b[q] for q in asked_a.keys() & asked_b.keys())
    example = next(iter(only_a + only_b), "")
    raise InputError(
        f"{a} and {b} cannot be compared: {len(only_a)} questions were put to {a} only, {len(only_b)} to {b} only"
        f"{f' (for example {example})' if example else ''}, {other} another number of times. "
        "Score both on the same questions artifact with the same k"
    )


PROTOCOL = ("n", "k", "temperature", "top_p", "max_new_tokens", "seed", "task", "task_version", "questions_digest")


def refuse_other_protocol(a: str, b: str, protocol_a: Mapping[str, Any], protocol_b: Mapping[str, Any]) -> None:
    """Raise InputError when two scores were taken in different ways; names every field that differs."""
    different = [
        f"{name}: {protocol_a.get(name)} against {protocol_b.get(name)}"
        for name in PROTOCOL
        if protocol_a.get(name) != protocol_b.get(name)
    ]
    if different:
        raise InputError(
            f"{a} and {b} cannot be compared, their protocols differ in {'; '.join(different)}. "
            "Score both with the same settings"
        )
