"""Find a final answer and judge it against the gold one: one judge for sifting and for scoring.

Exact paths come first (text, integers, decimals, fractions); what they cannot decide goes to math-verify in a
child process that is killed when it hangs. A timeout is `unknown`, never wrong; `unknown` is never right.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from distill.base import equality
from distill.base.chat import split_thought

RIGHT, WRONG, UNKNOWN = "right", "wrong", "unknown"
MAX_ANSWER_CHARS = 2000  # a final answer; longer ones would only feed the parser
MAX_EXPONENT = 300  # 10**300 is as far as a plain number goes here; beyond it is notation, not a value

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"^#### *(.+?)\s*$", re.MULTILINE)
_STATED = re.compile(r"\banswer\s*(?:is|:)\s*:?\s*(.+?)\s*(?:\.\s|\.?$)", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?")
_HEXADECIMAL = re.compile(r"([+-]?)0[xX]([0-9a-fA-F]{1,64})")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_FRACTION = re.compile(r"([+-]?)\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")
_WRAPPED = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\{([^{}]*)\}")
_CHOICE = re.compile(r"\(?([A-Z])\)?(?:[.):\s].*)?", re.DOTALL)


@dataclass(frozen=True)
class Judgement:
    """`verdict` is right, wrong or unknown; `extracted` the final answer as found; `reason` why."""

    verdict: str
    extracted: str | None
    reason: str


def final_answer(answer: str) -> str | None:
    r"""The final answer in what follows the thought: last `\boxed{}`, else `<answer>`, `####`, "answer is"."""
    boxed = _last_boxed(answer)
    if boxed is not None:
        return boxed.strip()
    for pattern in (_TAGGED, _HASHES, _STATED):
        found: list[str] = pattern.findall(answer)
        if found:
            return found[-1].strip()
    return None


def _last_boxed(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    depth = 0
    opening = text.index("{", start)
    for position in range(opening, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return text[opening + 1 : position]
    return None  # cut inside the box


def judge(gold: str, text: str, kind: str = "math") -> Judgement:
    """Judge a whole completion; only what follows `</think>` counts.

    Args:
        gold: the gold answer.
        text: the completion, with its thought.
        kind: an `AnswerKind`; kinds without a check here give unknown.
    """
    parts = split_thought(text)
    if not parts.closed:
        return Judgement(WRONG, None, "the thought never closes, so there is no answer")
    return judge_answer(gold, parts.answer, kind)


def judge_answer(gold: str, answer: str, kind: str = "math") -> Judgement:
    """Judge what follows the thought."""
    found = final_answer(answer)
    if found is None:
        return Judgement(WRONG, None, "no final answer")
    if len(found) > MAX_ANSWER_CHARS:
        return Judgement(UNKNOWN, found[:80], f"the answer is longer than {MAX_ANSWER_CHARS} characters")
    if kind == "exact":
        same = _plain(found) == _plain(gold)
        return Judgement(RIGHT if same else WRONG, found, "same text" if same else "other text")
    if kind == "choice":
        return _judge_choice(gold, found)
    if kind == "math":
        verdict, reason = _compare(gold, found)
        return Judgement(verdict, found, reason)
    return Judgement(UNKNOWN, found, f"answers of kind {kind!r} have no check")


def _judge_choice(gold: str, found: str) -> Judgement:
    letters = [match.group(1) for text in (gold, found) if (match := _CHOICE.fullmatch(_plain(text)))]
    if len(letters) < 2:
        return Judgement(UNKNOWN, found, "no choice letter")
    same = letters[0] == letters[1]
    return Judgement(RIGHT if same else WRONG, found, "same letter" if same else "other letter")


def _compare(gold: str, found: str) -> tuple[str, str]:
    left, right = _plain(gold), _plain(found)
    if left.casefold() == right.casefold():
        return RIGHT, "same text"
    a, b = number(left), number(right)
    if a is not None and b is not None:
        return (RIGHT, "same number") if a == b else (WRONG, "other number")
    if re.sub(r"\s", "", left.casefold()) == re.sub(r"\s", "", right.casefold()):
        return RIGHT, "same text but for spaces"
    if not right:
        return WRONG, "empty answer"
    if len(left) > MAX_ANSWER_CHARS:
        return WRONG, "other text than a long gold answer"
    return equality.compare(left, right)


def _plain(text: str) -> str:
    """An answer without its typesetting: dollars, text macros, spacing macros, a trailing full stop."""
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-").strip()
    text = text.replace("\\left", "").replace("\\right", "").replace("\\!", "").replace("\\,", " ").replace("\\ ", " ")
    text = _WRAPPED.sub(r"\1", text).replace("\\%", "%").replace("\\$", "$")
    text = text.strip().removeprefix("\\(").removesuffix("\\)").strip("$ \n\t")
    text = text.removesuffix(".").strip("`\"' ") if not text.endswith("...") else text
    return " ".join(text.split())


def number(text: str) -> Fraction | None:
    """An integer, decimal, fraction or percentage as an exact value; None when it is something else."""
    text = text.strip().removeprefix("$").strip()
    if text.endswith("%"):
        value = number(text[:-1])
        return None if value is None else value / 100
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if _NUMBER.fullmatch(text):
        _, _, exponent = text.lower().partition("e")
        return None if exponent and abs(int(exponent)) > MAX_EXPONENT else Fraction(text)
    hexadecimal = _HEXADECIMAL.fullmatch(text)
    if hexadecimal:
        return Fraction(int(hexadecimal.group(1) + hexadecimal.group(2), 16))
    latex = _FRACTION.fullmatch(text)
    if latex:
        text = f"{latex.group(1)}{latex.group(2)}/{latex.group(3)}"
    over, slash, under = text.partition("/")
    if slash and _NUMBER.fullmatch(over.strip()) and _NUMBER.fullmatch(under.strip()):
        above, below = number(over.strip()), number(under.strip())
        return above / below if above is not None and below else None
    return None
