"""Compare two answers part by part: what they are made of first, words and numbers exactly, formulas last."""

from __future__ import annotations

import re
from collections.abc import Sequence

from distill.base.judge import equality, estimate, numbers, shapes
from distill.base.judge.numbers import RIGHT, UNKNOWN, WRONG, Number
from distill.base.judge.typeset import clean, plain
from distill.base.judge.units import factor, split_letter, split_unit
from distill.base.judge.words import OPERATORS, Verdict, as_figure, choices, words

MAX_DEPTH = 6
MAX_BRACKETS = 40  # in a formula; the parser is recursive
MAX_ITEMS = 64  # of a list; matching is quadratic

_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(a\.?m\.?|p\.?m\.?)?", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/\d{2,4}")
_CELL = re.compile(r"-?\d+(?:\.\d+)?|[A-Z]")
_RATIO = re.compile(r"(\d+(?:\.\d+)?)\s*:\s*(\d+(?:\.\d+)?)")
_GRAPH = re.compile(r"y|[a-z]\s*\(\s*x\s*\)")
_BASED = re.compile(r"([0-9A-Fa-f]+)\s*_\s*(?:\{\s*(\w+)\s*\}|(\d+))")
_RANGE = re.compile(
    r"\\(?:cup|infty|in|mid|mathbb)(?![a-zA-Z])|\{\s*[a-zA-Z]\s*[|:]|^(?:\\text\{)?all real numbers", re.IGNORECASE
)
_MODULUS = re.compile(r"\\pmod\s*(?:\{[^{}]*\}|\d)|\(\s*(?:\\text\{\s*mod\s*\}|\\?b?mod)\s*[^()]*\)|\\bmod\s*\S+$")
_LEAD = re.compile(
    r"(?:approximately|about|around|exactly|roughly|\\approx|\\text\{(?:approximately|about)\})\s*", re.IGNORECASE
)


def figure(text: str) -> str:
    """The figure of an answer, without its unit."""
    return plain(split_unit(clean(text))[0])


def compare(gold: str, answer: str) -> Verdict:
    """Verdict and reason of a mathematical answer."""
    left, right = clean(gold), clean(answer)
    if not plain(right):
        return WRONG, "empty answer"
    return _compare(left, right, 0)


def _compare(gold: str, answer: str, depth: int) -> Verdict:
    """One step of taking apart: the first rule that applies decides."""
    if depth > MAX_DEPTH:
        return UNKNOWN, "nested too deeply"
    left, right = plain(gold), plain(answer)
    if _folded(left) == _folded(right):
        return RIGHT, "same text"
    a, b = numbers.read(left), numbers.read(right)
    if a is not None and b is not None:
        return _numbers(a, b)
    for rule in RULES:
        found = rule(gold, answer, depth)
        if found is not None:
            return found
    if (a is not None or b is not None) and _hopeless(right if a is not None else left):
        return WRONG, "a number and something else"
    if max(_depth(left), _depth(right)) > MAX_BRACKETS:
        return UNKNOWN, f"brackets nested more than {MAX_BRACKETS} deep"
    if estimate.far_apart(left, right):
        return WRONG, "formulas of other values"
    return equality.compare(left, right)


def _folded(text: str) -> str:
    """Letters alike but for case count as the same text only in words: x and X are two variables."""
    spaced = re.sub(r"\s+(?!\d)|(?<!\d)\s+", "", text)
    return spaced.casefold() if len(spaced) > 1 and not OPERATORS.search(spaced) else spaced


def _numbers(gold: Number, answer: Number) -> Verdict:
    if gold.percent != answer.percent and gold.value in (answer.value * 100, answer.value / 100) and gold.value:
        return UNKNOWN, "the same figure, but one is a percentage"
    verdict = numbers.same(gold, answer)
    reasons = {RIGHT: "same number", WRONG: "other number", UNKNOWN: "the same only as far as the gold is given"}
    return verdict, reasons[verdict]


def _letters(gold: str, answer: str, depth: int) -> Verdict | None:
    return choices(gold, answer)


def _prose(gold: str, answer: str, depth: int) -> Verdict | None:
    return words(gold, answer)


def _clocks(gold: str, answer: str, depth: int) -> Verdict | None:
    times = [_CLOCK.fullmatch(plain(text)) for text in (gold, answer)]
    if times[0] and times[1]:
        left, right = ([int(part or 0) for part in time.groups()[:3]] for time in times if time)
        halves = [(time[4] or "").replace(".", "").lower() for time in times if time]
        agree = left == right and (halves[0] == halves[1] or not all(halves))
        return (RIGHT, "same time") if agree else (WRONG, "other time or ratio")
    ratios = [_RATIO.fullmatch(plain(text)) for text in (gold, answer)]
    if ratios[0] is None and ratios[1] is None:
        return None
    sides = [f"{ratio[1]}/{ratio[2]}" if ratio else text for ratio, text in zip(ratios, (gold, answer), strict=True)]
    return _compare(sides[0], sides[1], depth + 1)


def _dates(gold: str, answer: str, depth: int) -> Verdict | None:
    """2024-01-02 is no subtraction."""
    texts = [plain(text) for text in (gold, answer)]
    dates = [_DATE.fullmatch(text) for text in texts]
    if dates[0] is None and dates[1] is None:
        return None
    if not all(dates) and any(character.isalpha() for text in texts for character in text):
        return UNKNOWN, "a date and something else"
    return WRONG, "another date"


def _rows(gold: str, answer: str, depth: int) -> Verdict | None:
    """1 2 3 and A B C are sequences: blanks between figures or capitals multiply nothing."""
    left, right = plain(gold).split(), plain(answer).split()
    if len(left) < 2 or len(right) < 2 or not all(_CELL.fullmatch(cell) for cell in left + right):
        return None
    return (RIGHT, "same sequence") if left == right else (WRONG, "another sequence")


def _bases(gold: str, answer: str, depth: int) -> Verdict | None:
    left, right = _BASED.fullmatch(plain(gold)), _BASED.fullmatch(plain(answer))
    if left is None and right is None:
        return None
    if left and right:
        same = left[1].lower() == right[1].lower() and (left[2] or left[3]) == (right[2] or right[3])
        return (RIGHT, "same digits in the same base") if same else (WRONG, "other digits or base")
    if left and left[1].lower() == plain(answer).replace(" ", "").lower():
        return RIGHT, "same digits, the base left out"
    return (WRONG, "a numeral in another base") if (left or right) and re.match(r"\d", plain(gold)) else None


def _moduli(gold: str, answer: str, depth: int) -> Verdict | None:
    """A modulus that only one of the two names is part of the question."""
    cut = [_MODULUS.sub("", text).strip() for text in (gold, answer)]
    if (cut[0] == gold) == (cut[1] == answer):
        return None
    return _compare(cut[0], cut[1], depth + 1)


def _measured(gold: str, answer: str, depth: int) -> Verdict | None:
    (left, unit), (right, other) = split_unit(gold), split_unit(answer)
    if unit and not other:
        right, other = split_letter(answer, unit)
    elif other and not unit:
        left, unit = split_letter(gold, other)
    if not unit and not other:
        return None
    scale = factor(unit, other)
    if scale is None:
        return WRONG, "measured in something else"
    if scale != 1:
        a, b = numbers.read(plain(left)), numbers.read(plain(right))
        if a is None or b is None:
            return UNKNOWN, "other units"
        return _numbers(a, Number(b.value * scale, b.step and b.step * scale))
    return _compare(as_figure(left), as_figure(right), depth + 1)


def _leads(gold: str, answer: str, depth: int) -> Verdict | None:
    left, right = (as_figure(_LEAD.sub("", text) if _LEAD.match(text) else text) for text in (gold, answer))
    return _compare(left, right, depth + 1) if (left, right) != (gold, answer) else None


def _several(gold: str, answer: str, depth: int) -> Verdict | None:
    """Lists, tuples and sets; \\pm stands for two answers."""
    left, right = _group(gold), _group(answer)
    if left is None and right is None:
        return None
    if left is None or right is None:
        return _single(left or right, gold if left is None else answer, left is None, depth)
    if (left.opening, right.opening) == ("", "(") and len(right.items) != len(left.items):
        return WRONG, "another number of answers"
    if shapes.matrix(gold) or shapes.matrix(answer) or _is_range(gold) or _is_range(answer):
        return None
    kinds = {left.opening, right.opening}
    if len(left.items) != len(right.items):
        return WRONG, "another number of answers"
    if kinds in ({"(", "\\{"}, {"[", ""}) and len(left.items) == 2:
        return UNKNOWN, "a pair that may be an interval"
    if (left.closing == ")") != (right.closing == ")") and "(" in kinds and "[" in kinds:
        return WRONG, "other brackets"
    if left.opening == right.opening and left.closing != right.closing:
        return WRONG, "other brackets"
    ordered = "(" in kinds or kinds == {"["}
    return _match(left.items, right.items, ordered, depth)


def _group(text: str) -> shapes.Group | None:
    written = shapes.signs_written_out(text)
    if len(written) == 2 and shapes.group(text) is None:
        return shapes.Group("", "", tuple(written))
    found = shapes.group(text)
    if found is None or found.opening == "(":
        return found if found and len(found.items) > 1 else None
    items = [one for item in found.items for one in shapes.signs_written_out(item)]
    if found.opening == "" and (sides := shapes.equation(items[0])) and shapes.is_name(sides[0]):
        if not any(shapes.equation(item) for item in items[1:]):
            items[0] = sides[-1]  # n = 2, 3, 4
        elif all(_assigned(item) == _assigned(items[0]) for item in items):
            items = [(shapes.equation(item) or (item,))[-1] for item in items]  # x = 2 or x = 3
    return shapes.Group(found.opening, found.closing, tuple(items))


def _assigned(item: str) -> str | None:
    sides = shapes.equation(item)
    return plain(sides[0]) if sides and shapes.is_name(sides[0]) else None


def _single(several: shapes.Group | None, one: str, gold_is_one: bool, depth: int) -> Verdict | None:
    """A group against something else: x=(1,2), a set of one, a number that happens to have commas."""
    assert several is not None
    sides = shapes.equation(one)
    if sides and shapes.is_name(sides[0]) and _group(sides[-1]):
        return None  # the equation rule takes the name away
    if numbers.read(plain(one)) is not None and several.opening == "" and len(several.items) > 1:
        return WRONG, "another number of answers"
    if len(several.items) == 1 and several.opening in ("\\{", "["):
        pair = (one, several.items[0]) if gold_is_one else (several.items[0], one)
        return _compare(*pair, depth + 1)
    if several.opening == "" and not any(_is_range(item) for item in several.items):
        return WRONG, "another number of answers"
    return None


def _match(gold: Sequence[str], answer: Sequence[str], ordered: bool, depth: int) -> Verdict:
    """Items in order, or each with a partner of its own."""
    if len(gold) > MAX_ITEMS:
        return UNKNOWN, f"more than {MAX_ITEMS} items"
    unsure = False
    left = list(answer)
    for item in gold:
        candidates = left[:1] if ordered else left
        verdicts = []
        for candidate in candidates:
            verdicts.append(_compare(item, candidate, depth + 1)[0])
            if verdicts[-1] == RIGHT:
                break
        if verdicts[-1] == RIGHT:
            del left[len(verdicts) - 1]
        elif UNKNOWN in verdicts:
            unsure = True
            del left[verdicts.index(UNKNOWN)]
        else:
            return WRONG, "an item differs"
    return (UNKNOWN, "an item cannot be decided") if unsure else (RIGHT, "same items")


def _matrices(gold: str, answer: str, depth: int) -> Verdict | None:
    left, right = shapes.matrix(gold), shapes.matrix(answer)
    if left is None or right is None:
        return None
    if [len(row) for row in left] != [len(row) for row in right]:
        return WRONG, "another shape of matrix"
    cells = [[cell for row in side for cell in row] for side in (left, right)]
    return _match(cells[0], cells[1], True, depth)


def _is_range(text: str) -> bool:
    return shapes.is_inequality(text) or _RANGE.search(text) is not None


def _ranges(gold: str, answer: str, depth: int) -> Verdict | None:
    if not (_is_range(gold) or _is_range(answer)):
        return None
    left, right = shapes.intervals(gold), shapes.intervals(answer)
    if left is None or right is None:
        return (WRONG, "a range and a number") if numbers.read(plain(answer)) or numbers.read(plain(gold)) else None
    if left[0] and right[0] and left[0] != right[0]:
        return WRONG, "ranges of different variables"
    if len(left[1]) != len(right[1]):
        return None
    rest, unsure = list(right[1]), False
    for interval in left[1]:
        verdicts = [_same_range(interval, other, depth) for other in rest]
        best = RIGHT if RIGHT in verdicts else UNKNOWN if UNKNOWN in verdicts else WRONG
        if best == WRONG:
            return WRONG, "another range"
        unsure |= best == UNKNOWN
        del rest[verdicts.index(best)]
    return (UNKNOWN, "a bound cannot be decided") if unsure else (RIGHT, "same range")


def _same_range(gold: shapes.Interval, answer: shapes.Interval, depth: int) -> str:
    if (gold.low_open, gold.high_open) != (answer.low_open, answer.high_open):
        return WRONG
    return _match((gold.low, gold.high), (answer.low, answer.high), True, depth)[0]


def _equations(gold: str, answer: str, depth: int) -> Verdict | None:
    left, right = shapes.equation(gold), shapes.equation(answer)
    if left is None and right is None:
        return None
    if left and right and _constant(left[0]) and _constant(right[0]):
        return _compare(left[-1], right[-1], depth + 1)  # true statements are equal equations, all of them
    named = [side and (shapes.is_name(side[0]) or _constant(side[0])) for side in (left, right)]
    if left and right:
        if not (named[0] and named[1]):
            return None
        if re.sub(r"\s", "", plain(left[0])) == re.sub(r"\s", "", plain(right[0])):
            return _compare(left[-1], right[-1], depth + 1)
        inner = _compare(left[-1], right[-1], depth + 1)[0]
        if inner == RIGHT and all(_GRAPH.fullmatch(side[0]) for side in (left, right)):
            return RIGHT, "the same function"
        return (WRONG, "another variable") if inner == WRONG else None if len(left[0]) == 1 == len(right[0]) else (
            UNKNOWN, "the same value under another name")  # fmt: skip
    if right:
        return _compare(gold, right[-1], depth + 1)
    assert left is not None
    if named[0]:
        return _compare(left[-1], answer, depth + 1)
    return WRONG, "an equation and something else"


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _constant(text: str) -> bool:
    """Whether a formula has no unknowns: no letters but those of macros."""
    return not re.search(r"[a-zA-Z]", re.sub(r"\\(?:begin|end|text)\{[^{}]*\}(?:\{[clr| ]*\})?|\\[a-zA-Z]+", "", text))


def _hopeless(text: str) -> bool:
    """What no value can come of: nothing but letters."""
    return text.isalpha() and text not in ("e", "i") and "pi" not in text


# In this order: each rule may count on what those before it have taken away.
RULES = (
    _letters, _dates, _rows, _clocks, _bases, _moduli, _ranges,
    _measured, _leads, _prose, _several, _matrices, _equations,
)  # fmt: skip
