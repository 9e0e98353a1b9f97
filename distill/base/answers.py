"""Find a final answer and judge it against the gold one: one judge for sifting and for scoring.

An answer is taken apart (units, lists, tuples, sets, intervals, matrices, equations) until its parts are words, numbers
or formulas. Words and numbers are compared exactly; formulas in a child process that is killed when it hangs. What
cannot be decided, a timeout among it, is `unknown`, never wrong; `unknown` is never right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from distill.base.chat import split_thought
from distill.base.judge import parts
from distill.base.judge.extract import final_answer
from distill.base.judge.numbers import RIGHT, UNKNOWN, WRONG, read
from distill.base.judge.typeset import clean, plain

__all__ = ["RIGHT", "UNKNOWN", "WRONG", "Judgement", "final_answer", "judge", "judge_answer"]

MAX_ANSWER_CHARS = 2000  # a final answer; longer ones would only feed the parser
TOLERANCE = 0.01  # of kind "numeric", relative: what Minerva's authors allow for worked science problems
_CHOICE = re.compile(r"\(\s*([A-Ja-j])\s*\).*|([A-J])(?:\s*[.):,].*)?|([a-j])(?:[.)].*)?", re.DOTALL)
_OPTION = re.compile(r"(?:option|choice|answer)\s*:?\s*\(?([A-J])\)?(?![a-zA-Z]).*", re.DOTALL | re.IGNORECASE)
_CHOSEN = re.compile(r"\b(?:option|choice)\s+\(?\**([A-J])\b|\(([A-J])\)")


@dataclass(frozen=True)
class Judgement:
    """`verdict` is right, wrong or unknown; `extracted` the final answer as found; `reason` why."""

    verdict: str
    extracted: str | None
    reason: str


def judge(gold: str, text: str, kind: str = "math") -> Judgement:
    """Judge a whole completion; only what follows `</think>` counts.

    Args:
        gold: the gold answer, or a solution that states it as a completion does.
        text: the completion, with its thought.
        kind: an `AnswerKind`; kinds without a check here give unknown.
    """
    taken = split_thought(text)
    if not taken.closed:
        return Judgement(WRONG, None, "the thought never closes, so there is no answer")
    return judge_answer(gold, taken.answer, kind)


def judge_answer(gold: str, answer: str, kind: str = "math") -> Judgement:
    r"""Judge what follows the thought.

    Args:
        gold: the gold answer; of a text with `\boxed{}` or `####`, what these hold.
        kind: `math`, `choice` (a letter), `exact` (the text but for typesetting), or `numeric` (within 1 percent;
            `numeric:0.001` within a thousandth).
    """
    if "\\boxed" in gold or "####" in gold:
        gold = final_answer(gold) or gold
    found = final_answer(answer)
    if found is None:
        found = _alone(answer, kind)
    if found is None:
        return Judgement(WRONG, None, "no final answer")
    if len(found) > MAX_ANSWER_CHARS:
        return Judgement(UNKNOWN, found[:80], f"the answer is longer than {MAX_ANSWER_CHARS} characters")
    if len(gold) > MAX_ANSWER_CHARS:
        same = gold.strip() == found.strip()
        return Judgement(RIGHT if same else UNKNOWN, found, f"the gold is longer than {MAX_ANSWER_CHARS} characters")
    verdict, reason = _compare(gold, found, kind)
    return Judgement(verdict, found, reason)


def _alone(answer: str, kind: str) -> str | None:
    """An answer of one short line that states nothing but itself, such as `east` or `B`."""
    text = answer.strip()
    if text and "\n" not in text and len(text) <= 200 and "boxed" not in text:
        return text
    if kind == "choice" and text:
        named = _CHOSEN.findall(text.splitlines()[-1])
        letters = {a or b for a, b in named}
        return letters.pop() if len(letters) == 1 else None
    return None


def _compare(gold: str, found: str, kind: str) -> tuple[str, str]:
    if kind == "math":
        return parts.compare(gold, found)
    left, right = plain(clean(gold)), plain(clean(found))
    if kind == "exact":
        return (RIGHT, "same text") if left == right else (WRONG, "other text")
    if kind == "choice":
        return _compare_letters(left, right)
    name, _, tolerance = kind.partition(":")
    if name == "numeric":
        return _compare_figures(gold, found, tolerance)
    return UNKNOWN, f"answers of kind {kind!r} have no check"


def _compare_letters(gold: str, found: str) -> tuple[str, str]:
    letters = [_letter(text) for text in (gold, found)]
    if letters[0] is None or letters[1] is None:
        return (RIGHT, "same text") if gold.casefold() == found.casefold() else (UNKNOWN, "no choice letter")
    return (RIGHT, "same letter") if letters[0] == letters[1] else (WRONG, "other letter")


def _letter(text: str) -> str | None:
    match = _CHOICE.fullmatch(text) or _OPTION.fullmatch(text)
    return next(group for group in match.groups() if group).upper() if match else None


def _compare_figures(gold: str, found: str, tolerance: str) -> tuple[str, str]:
    try:
        allowed = float(tolerance or TOLERANCE)
    except ValueError:
        return UNKNOWN, f"no tolerance: {tolerance!r}"
    left, right = (read(parts.figure(text)) for text in (gold, found))
    if left is None or right is None:
        return parts.compare(gold, found)
    close = abs(left.value - right.value) <= abs(left.value) * read(str(allowed)).value  # type: ignore[union-attr]
    return (RIGHT if close else WRONG), f"{'within' if close else 'not within'} {allowed:g} of the gold"
