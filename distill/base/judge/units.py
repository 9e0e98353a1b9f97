"""What is measured: units and counted things told apart from the figure before them."""

from __future__ import annotations

import re
from fractions import Fraction

from distill.base.judge.typeset import plain

# dimension: worth in its first unit -> names
_NAMES: dict[str, dict[str, str]] = {
    "length": {
        "1": "m meter metre", "1/100": "cm centimeter centimetre", "1/1000": "mm millimeter millimetre",
        "1000": "km kilometer kilometre", "127/5000": "in inch inche", "381/1250": "ft foot feet",
        "1143/1250": "yd yard", "201168/125": "mi mile",
    },
    "time": {"1": "s sec second", "60": "min minute", "3600": "h hr hour", "86400": "day", "604800": "week"},
    "mass": {"1": "g gm gram", "1000": "kg kilogram", "1/1000": "mg milligram"},
    "weight": {"16": "lb pound", "1": "oz ounce"},
    "volume": {"1": "l liter litre", "1/1000": "ml milliliter millilitre"},
    "dollars": {"1": "$ dollar usd buck", "1/100": "cent ¢"},
    "euros": {"1": "€ euro eur"}, "sterling": {"1": "£ gbp"}, "rupees": {"1": "₹ rupee inr"},
    "angle": {"1": "^\\circ degree deg"}, "radians": {"1": "rad radian"},
    "celsius": {"1": "celsius"}, "fahrenheit": {"1": "fahrenheit"}, "kelvin": {"1": "kelvin"},
    "years": {"1": "yr year"}, "months": {"1": "month"},
}  # fmt: skip
_SCALES = {
    name: (dimension, Fraction(worth))
    for dimension, worths in _NAMES.items()
    for worth, names in worths.items()
    for name in names.split()
}
_SHORT = {
    "cm", "mm", "km", "ft", "in", "kg", "mg", "lb", "lbs", "oz", "ml", "mph", "hr", "hrs", "sec", "min", "mi", "yd",
    "rs", "usd", "sq", "cu",
}  # fmt: skip
# Words after a figure that make it another figure, or another statement.
_NO_UNITS = {
    "hundred", "thousand", "million", "billion", "trillion", "dozen", "half", "third", "quarter", "percent",
    "percentage", "pct", "and", "or", "not", "if", "when", "for", "where", "times", "plus", "minus", "over", "by", "to",
    "mod", "modulo", "base", "is", "are", "but", "then", "squared", "cubed", "factorial", "negative", "choose", "pi",
    "sqrt", "sin", "cos", "tan", "log", "ln", "at", "with", "between", "than", "divided", "point", "am", "pm",
}  # fmt: skip
_TEXT_UNIT = re.compile(r"(.*\S)\s*\\text\{\s*([^{}\\]*[a-zA-Z][^{}\\]*)\}\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?", re.DOTALL)
_MIDDLE_TEXT = re.compile(r"(\d|\}|\))\s*\\text\{\s*([a-zA-Z. ]+)\}\s*((?:/|\\cdot|\\text|\^).*)", re.DOTALL)
_WORDS = re.compile(
    r"(.*[\d)}%]|.*\\pi|one|two|three|four|five|six|seven|eight|nine|ten|zero)(\s*)([a-zA-Z][a-zA-Z.\s/'-]*?)(?:\^\s*\{?(-?\d)\}?)?",
    re.DOTALL | re.IGNORECASE,
)
_MONEY = re.compile(r"([+-]?)\s*([$€£₹])\s*(?=[\d.\\(+-])(.*)", re.DOTALL)
_MONEY_AFTER = re.compile(r"(.*\d)\s*([$€£₹¢])")
_DEGREES = re.compile(r"(.*[\d}])\s*\^\s*\\circ\s*([CFK])?", re.DOTALL)


def split_unit(text: str) -> tuple[str, str]:
    """(figure, unit) of a `clean` text; the unit is empty when there is none."""
    if match := _MONEY.fullmatch(text):
        return split_unit(match[1] + match[3].strip())[0], match[2]
    if match := _MONEY_AFTER.fullmatch(text):
        return match[1], match[2]
    if match := _DEGREES.fullmatch(text):
        return match[1].strip(), {"C": "celsius", "F": "fahrenheit", "K": "kelvin"}.get(match[2] or "", "^\\circ")
    if match := _MIDDLE_TEXT.search(text):
        tail = plain(match[2] + match[3])
        if _unit_like(tail, 2):
            return text[: match.start(2)].rsplit("\\text", 1)[0].strip(), _canonical(tail, None)
    if (match := _TEXT_UNIT.fullmatch(text)) and _unit_like(match[2], 1) and match[1][-1] not in "=,+-*/<>":
        return plain(match[1]), _canonical(match[2], match[3])
    match = _WORDS.fullmatch(plain(text))
    if match and _unit_like(match[3], 2) and (match[2] or match[3].lower().split("/")[0] in _SHORT):
        return match[1].strip(), _canonical(match[3], match[4])
    return text, ""


def split_letter(text: str, other: str) -> tuple[str, str]:
    """`split_unit` for a bare letter: a unit only where the other side has one of its dimension (1 m, 100 cm)."""
    match = re.fullmatch(r"(.*\d)\s*([a-zA-Z])", text, re.DOTALL)
    if match and other in _SCALES and match[2].lower() in _SCALES and factor(other, match[2].lower()) is not None:
        return match[1], match[2].lower()
    return text, ""


def _unit_like(words: str, shortest: int) -> bool:
    parts = [part for part in re.split(r"[\s/.^\d{}\-]+|\\cdot", words.strip().lower()) if part]
    if not parts or len(parts) > 6 or any(part in _NO_UNITS for part in parts):
        return False
    return all(part.replace("'", "").isalpha() for part in parts) and len(parts[0]) >= shortest


def _canonical(words: str, power: str | None) -> str:
    name = " ".join(words.lower().replace(".", "").split())
    for word, exponent in (("square ", "2"), ("sq ", "2"), ("cubic ", "3"), ("cu ", "3")):
        if name.startswith(word):
            name, power = name.removeprefix(word), exponent
    name = name if name in _SCALES else name.removesuffix("s")
    return f"{name}^{power}" if power else name


def factor(gold: str, answer: str) -> Fraction | None:
    """By what an answer's figure is multiplied to be in the gold unit; None when the two measure different things.

    A unit that only one of the two names, and names of counted things, change nothing.
    """
    if gold == answer or not gold or not answer or gold not in _SCALES or answer not in _SCALES:
        return Fraction(1)
    (dimension, worth), (other, other_worth) = _SCALES[gold], _SCALES[answer]
    return other_worth / worth if dimension == other else None
