"""Answers that are words: prose, choice letters, numbers written out."""

from __future__ import annotations

import re

from distill.base.judge.numbers import RIGHT, UNKNOWN, WRONG
from distill.base.judge.shapes import COMMA
from distill.base.judge.typeset import pieces, plain

Verdict = tuple[str, str]

_CHOICE = re.compile(r"(?:\\text\{\s*)?\(?\s*(?:\\text\{\s*)?\(?([A-J])\)?\s*\}?\s*\)?\}?")
_LETTERED = re.compile(r"\(([A-J])\)\s*\S.*|([A-J])[.):]\s+\S.*", re.DOTALL)
_PROSE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}(?![a-zA-Z])")
_WORDY = re.compile(r"[^\W\d_]{4,}|\b[A-Z]{2,}\b")
OPERATORS = re.compile(r"[\^_=+*/<>|]|\\(?!text)")
_FUNCTION = re.compile(r"\b(?:sqrt|sin|cos|tan|log|exp|max|min|arcsin|arccos|arctan|sinh|cosh|tanh)\b")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_FIGURES = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
}  # fmt: skip


def as_figure(text: str) -> str:
    """A small number that is written out, as a figure; other texts as they are."""
    return _FIGURES.get(plain(text).lower(), text)


def choices(gold: str, answer: str) -> Verdict | None:
    """A choice letter against one, with or without what it stands for; None when the gold is none."""
    match = _CHOICE.fullmatch(gold)
    if match is None:
        lettered = _LETTERED.fullmatch(plain(gold))
        return choices(lettered[1] or lettered[2], answer) if lettered and _CHOICE.fullmatch(answer) else None
    found = _CHOICE.fullmatch(answer)
    if found is None and (lettered := _LETTERED.fullmatch(plain(answer))):
        found = lettered
    if found is None:
        return None
    letter = next(group for group in found.groups() if group)
    return (RIGHT, "same letter") if letter == match[1] else (WRONG, "other letter")


def is_words(text: str) -> bool:
    r"""Whether the text is prose: letters only, some word of four or in capitals, or set as `\text{}`."""
    bare = plain(text)
    if OPERATORS.search(bare) or _FUNCTION.search(bare) or not any(c.isalpha() for c in bare):
        return False
    set_as_text = text.strip().startswith("\\text{") and text.strip().endswith("}")
    return set_as_text or _WORDY.search(bare) is not None


def words(gold: str, answer: str) -> Verdict | None:
    """Prose against prose or a formula; None when neither is prose, or a figure may be in it."""
    if not is_words(gold) and not is_words(answer):
        wordy = len(_PROSE.findall(plain(answer))) > 3 and not _PROSE.search(plain(gold)) and "," not in gold
        return (UNKNOWN, "a sentence that cannot be read") if wordy else None
    left, right = (_bag(text) for text in (gold, answer))
    if left == right:
        return RIGHT, "same words"
    if not is_words(gold):
        # "The value is 5": a sentence in the box is an answer only if it is that of the gold.
        if not any(c.isdigit() for c in plain(answer)):
            return WRONG, "words for a formula"
        return (UNKNOWN, "a sentence that cannot be read") if len(_PROSE.findall(plain(answer))) > 2 else None
    if not is_words(answer):
        return (WRONG, "a formula for words") if not any(c.isdigit() for c in plain(gold)) else None
    if left and right and (set(left) < set(right) or set(right) < set(left)) and not _several_words(gold, answer):
        return UNKNOWN, "one says more than the other"
    return WRONG, "other words"


def _several_words(gold: str, answer: str) -> bool:
    return any(len(pieces(text, COMMA)) > 1 for text in (gold, answer))


def _bag(text: str) -> list[str]:
    """Words in order, without articles, case, punctuation."""
    lowered = _ARTICLES.sub(" ", plain(text).casefold()) if len(plain(text)) > 2 else plain(text)
    return re.findall(r"\w+(?:\.\d+)?", lowered.replace("'", ""))
