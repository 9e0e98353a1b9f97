"""Numbers as they are written in answers: exact values, and how far a decimal claims to be exact."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction

MAX_EXPONENT = 300  # 10**300 is as far as a plain number goes here; beyond it is notation, not a value
ROUNDED_DIGITS = 3  # 0.333 stands for 1/3, 0.33 does not
ROOT_DIGITS = 5  # what the gold answer leaves as a root or pi was meant to stay exact: 1.4142 at least
REFINED_DIGITS = 4  # 3.142 may be told more exactly; 12.5 told as 12.48 is another number
RIGHT, WRONG, UNKNOWN = "right", "wrong", "unknown"

_PLAIN = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?")
_THOUSANDS = re.compile(r"\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?:\.\d+)?")
_HEXADECIMAL = re.compile(r"0[xX]([0-9a-fA-F]{1,64})")
_REPEATING = re.compile(r"(\d*)\.(\d*)(?:\\overline\{(\d+)\}|\\bar\{(\d+)\}|\((\d+)\))(?:\.\.\.)?")
_ENDLESS = re.compile(r"(\d*\.\d{3,})\.\.\.")
_SCIENTIFIC = re.compile(
    r"(?:(.+?)\s*(?:\\times|\\cdot|\*|(?<=\d)\s*x)\s*)?10\s*(?:\^|\*\*)\s*(\{?\(?[+-]?\s*\d{1,4}\)?\}?)"
)
_POWER = re.compile(r"(\d{1,6})\s*(?:\^|\*\*)\s*\{?(\d{1,4})\}?")
_FRACTION = re.compile(r"\\frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_MIXED = re.compile(r"(\d+)\s*(?:\+\s*)?(\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}|(?<=[ +])\d+\s*/\s*\d+)")
_SCALED = re.compile(r"(.*\d)\s*(dozen|hundred|thousand|million|billion|trillion)", re.IGNORECASE | re.DOTALL)
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


@dataclass(frozen=True)
class Number:
    """`value` exactly as written; `step` the worth of a decimal's last place, None for integers and fractions."""

    value: Fraction
    step: Fraction | None = None
    percent: bool = False

    @property
    def digits(self) -> int:
        """Significant digits of a decimal."""
        if not self.step or not self.value:
            return 0
        return len(str(abs(int(self.value / self.step))))


def number(text: str) -> Fraction | None:
    """An integer, decimal, fraction or percentage as an exact value; None when it is something else."""
    found = read(text)
    return None if found is None else found.value


def read(text: str, depth: int = 0) -> Number | None:
    """A number in any usual notation; None when the text is something else."""
    text = text.strip()
    if not text or depth > 6 or not any(c.isdigit() for c in text):
        return None
    if text[0] in "+-":
        inner = read(text[1:], depth + 1) if text[1:].strip()[:1] not in ("+", "-") else None
        return replace(inner, value=-inner.value) if inner and text[0] == "-" else inner
    if text[0] == "$":
        return read(text[1:], depth + 1)
    percent = re.search(r"\s*(?:%|\bpercent|\bpct)$", text, re.IGNORECASE)
    if percent:
        whole = read(text[: percent.start()], depth + 1)
        return whole and Number(whole.value / 100, whole.step and whole.step / 100, True)
    if scaled := _SCALED.fullmatch(text):
        whole, scale = read(scaled[1], depth + 1), _SCALES[scaled[2].lower()]
        return whole and Number(whole.value * scale, whole.step and whole.step * scale)
    if text[0] in "({" and text[-1] == {"(": ")", "{": "}"}[text[0]] and not set("(){}") & set(text[1:-1]):
        return None if "," in text else read(text[1:-1], depth + 1)
    return _decimal(text) or _notation(text) or _quotient(text, depth)


def _decimal(text: str) -> Number | None:
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    if not _PLAIN.fullmatch(text):
        return None
    mantissa, _, exponent = text.lower().partition("e")
    power = int(exponent or 0)
    if abs(power) > MAX_EXPONENT:
        return None
    places = len(mantissa.partition(".")[2])
    step = Fraction(10) ** (power - places) if places or power else None
    return Number(Fraction(text), step)


def _notation(text: str) -> Number | None:
    """Hexadecimal, repeating decimals, powers of ten, mixed numbers, small powers."""
    if match := _HEXADECIMAL.fullmatch(text):
        return Number(Fraction(int(match[1], 16)))
    if match := _REPEATING.fullmatch(text):
        period = match[3] or match[4] or match[5]
        head = Fraction(int((match[1] + match[2]) or 0), 10 ** len(match[2]))
        return Number(head + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(match[2])))
    if match := _ENDLESS.fullmatch(text):
        return _decimal(match[1])
    if match := _SCIENTIFIC.fullmatch(text):
        power = int(re.sub(r"[{}()\s]", "", match[2]))
        mantissa = _decimal(match[1].strip().lstrip("(")) if match[1] else Number(Fraction(1))
        if mantissa is None or abs(power) > MAX_EXPONENT:
            return None
        scale = Fraction(10) ** power
        return Number(mantissa.value * scale, mantissa.step and mantissa.step * scale)
    if match := _MIXED.fullmatch(text):
        part = read(match[2], 5)
        return part and Number(int(match[1]) + part.value)
    if (match := _POWER.fullmatch(text)) and int(match[2]) * len(match[1]) <= MAX_EXPONENT:
        return Number(Fraction(int(match[1]) ** int(match[2])))
    return None


def _quotient(text: str, depth: int) -> Number | None:
    latex = _FRACTION.fullmatch(text)
    over, slash, under = (latex[1], "/", latex[2]) if latex else text.partition("/")
    if not slash or "%" in text:
        return None
    above, below = read(over, depth + 1), read(under, depth + 1)
    return Number(above.value / below.value) if above and below and below.value else None


def same(gold: Number, answer: Number) -> str:
    """Right, wrong or unknown: exact values exactly, decimals as far as they claim to be exact."""
    if gold.value == answer.value:
        return RIGHT
    if gold.step is not None and answer.step is not None:
        if answer.step >= gold.step or not rounds_to(answer.value, gold):
            return WRONG
        return RIGHT if gold.digits >= REFINED_DIGITS else UNKNOWN
    if gold.step is None and answer.step is not None and endless(gold.value):
        return RIGHT if answer.digits >= ROUNDED_DIGITS and rounds_to(gold.value, answer) else WRONG
    if answer.step is None and gold.step is not None and endless(answer.value):
        if not rounds_to(answer.value, gold):
            return WRONG
        return RIGHT if gold.digits >= ROUNDED_DIGITS else UNKNOWN
    return WRONG


def rounds_to(value: Fraction, decimal: Number) -> bool:
    """Whether the decimal is the value rounded to its last place (half either way)."""
    return decimal.step is not None and abs(value - decimal.value) * 2 <= decimal.step


def endless(value: Fraction) -> bool:
    """Whether the value has no finite decimal."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest != 1


def approximates(gold: Number | None, answer: Number | None, value: Fraction) -> bool:
    """Whether the decimal on one side stands for the irrational value on the other (whose number is None)."""
    decimal, digits = (gold, ROUNDED_DIGITS) if gold is not None else (answer, ROOT_DIGITS)
    if decimal is None or decimal.step is None or not math.isfinite(value):
        return False
    return decimal.digits >= digits and rounds_to(value, decimal)
