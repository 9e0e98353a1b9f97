"""What is measured: units and counted things told apart from the figure before them."""

from __future__ import annotations

import re
from fractions import Fraction

from distill.base.typeset import plain

# name: (dimension, worth in the dimension's first unit)
_SCALES: dict[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(worth))
    for dimension, names in {
        "length": {"m meter metre": "1", "cm centimeter centimetre": "1/100", "mm millimeter millimetre": "1/1000",
                   "km kilometer kilometre": "1000", "in inch inche": "127/5000", "ft foot feet": "381/1250",
                   "yd yard": "1143/1250", "mi mile": "201168/125"},
        "time": {"sec second": "1", "s": "1", "min minute": "60", "h hr hour": "3600", "day": "86400",
                 "week": "604800"},
        "mass": {"g gram gm": "1", "kg kilogram": "1000", "mg milligram": "1/1000"},
        "weight": {"lb pound": "16", "oz ounce": "1"},
        "volume": {"l liter litre": "1", "ml milliliter millilitre": "1/1000"},
        "money": {"$ dollar usd buck": "1", "cent ¢": "1/100"},
        "euro": {"€ euro eur": "1"}, "sterling": {"£ gbp": "1"}, "rupee": {"₹ rupee r inr": "1"},
        "angle": {"^\\circ degree deg": "1"}, "radian": {"rad radian": "1"},
        "celsius": {"^\\circ c celsius": "1"}, "year": {"yr year": "1"}, "month": {"month": "1"},
    }.items()
    for names, worth in names.items()
    for name in names.split(" ")
    if not (dimension == "celsius" and name in ("c", "^\\circ"))
}  # fmt: skip
_SHORT = {"cm", "mm", "km", "ft", "in", "kg", "mg", "lb", "lbs", "oz", "ml", "mph", "hr", "hrs", "sec", "min", "mi", "yd",
          "am", "pm", "rs", "usd", "sq", "cu"}  # fmt: skip
# Words after a figure that make it another figure, or another statement.
_NO_UNITS = {
    "hundred", "thousand", "million", "billion", "trillion", "dozen", "half", "third", "quarter", "percent", "percentage",
    "and", "or", "not", "if", "when", "for", "where", "times", "plus", "minus", "over", "by", "to", "mod", "modulo", "base",
    "to", "is", "are", "but", "then", "squared", "cubed", "factorial", "negative", "choose", "pi", "sqrt", "sin", "cos", "tan",
    "log", "ln", "at", "with", "between", "than", "divided", "point", "pct", "am", "pm", "a.m", "p.m",
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
        body, unit = split_unit(match[1] + match[3].strip())
        scaled = unit and unit not in _SCALES
        return (body, match[2]) if not scaled else (text, "")
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
