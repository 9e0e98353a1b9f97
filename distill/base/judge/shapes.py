"""What an answer is made of: lists, tuples, sets, intervals, matrices, equations; cut into parts, not evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass

from distill.base.judge.typeset import pieces, plain

_AND = r"(?:\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)"
COMMA = re.compile(rf"\s*[,;]\s*{_AND}?\s*|\s*{_AND}\s*")
_OR = re.compile(r"\s*(?:\\text\{\s*or\s*\}|\bor\b|\\cup(?![a-zA-Z])|,)\s*")
_RELATION = re.compile(r"\\leq(?![a-zA-Z])|\\geq(?![a-zA-Z])|<=|>=|<|>")
_EQUALS = re.compile(r"(?<![<>!=:])=(?!=)|\\approx(?![a-zA-Z])|\\equiv(?![a-zA-Z])")
_MEMBER = re.compile(r"[a-zA-Z]\s*\\in(?![a-zA-Z])\s*(.+)", re.DOTALL)
_BUILDER = re.compile(
    r"\\?\{\s*([a-zA-Z])\s*(?:\\in\s*(?:\\mathbb\{R\}|R)\s*)?(?:\||\\mid|\\vert|:)\s*(.+?)\s*\\?\}", re.DOTALL
)
_MATRIX = re.compile(
    r"[(\[]?\s*\\begin\{(?:p|b|B|small)?(?:matrix|array)\}\s*(?:\{[clr| ]*\})?(.*)"
    r"\\end\{(?:p|b|B|small)?(?:matrix|array)\}\s*[)\]]?",
    re.DOTALL,
)
_ROWS = re.compile(r"\s*\\\\\s*(?:\\hline\s*)?")
_CELLS = re.compile(r"\s*&\s*")
_SYMBOL = re.compile(
    r"\\?[a-zA-Z]+'?(?:_(?:\{[^{}]*\}|\w))?'?(?:\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\))?"  # x_1, f'(x), \theta
    r"|\\angle\s*[A-Z ]+|\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\)|[A-Za-z][A-Za-z ]+"  # (x, y), the area
)


@dataclass(frozen=True)
class Group:
    """Items between brackets: `opening` is (, [, \\{ or empty for a bare list."""

    opening: str
    closing: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, which are texts; an end that is open does not belong to it."""

    low: str
    high: str
    low_open: bool
    high_open: bool


def group(text: str) -> Group | None:
    """The brackets around the whole text and what they hold; a bare list with several items has none."""
    for opening in ("\\langle", "\\{", "(", "[", "{"):
        if not text.startswith(opening):
            continue
        for closing in ("\\rangle", "\\}", ")", "]", "}"):
            if text.endswith(closing) and _encloses(text, len(opening), len(closing)):
                inner = text[len(opening) : len(text) - len(closing)].strip()
                kind = {"\\langle": "(", "{": "\\{"}.get(opening, opening)
                end = {"\\rangle": ")", "}": "\\}"}.get(closing, closing)
                return Group(kind, end, tuple(item for item in pieces(inner, COMMA) if item))
    items = tuple(item for item in pieces(text, COMMA) if item)
    return Group("", "", items) if len(items) > 1 else None


def _encloses(text: str, opening: int, closing: int) -> bool:
    """Whether the first bracket's partner is the last one."""
    depth = 1
    for match in re.finditer(r"\\\\|\\langle|\\rangle|[()\[\]{}]", text[opening : len(text) - closing]):
        if match.group() != "\\\\":
            depth += 1 if match.group() in ("(", "[", "{", "\\langle") else -1
        if depth == 0:
            return False
    return depth == 1


def matrix(text: str) -> tuple[tuple[str, ...], ...] | None:
    r"""Rows of cells of a LaTeX matrix, or of nested lists; None when it is neither."""
    if match := _MATRIX.fullmatch(text):
        rows = [row for row in pieces(match[1].strip(), _ROWS) if row]
        return tuple(tuple(pieces(row, _CELLS)) for row in rows)
    outer = group(text)
    if outer is None or outer.opening != "[":
        return None
    inner = [group(item) for item in outer.items]
    if not inner or any(row is None or row.opening != "[" for row in inner):
        return None
    return tuple(row.items for row in inner if row is not None)


def intervals(text: str) -> tuple[str, list[Interval]] | None:
    """(variable or empty, intervals) of an interval, a union of them, or inequalities in one variable."""
    name = ""
    if match := _BUILDER.fullmatch(text):
        name, text = match[1], match[2]
    if match := _MEMBER.fullmatch(text):
        text = match[1]
    if re.fullmatch(r"\\mathbb\{R\}|all real numbers|\\text\{all real numbers\}", text.strip()):
        return name, [Interval("-\\infty", "\\infty", True, True)]
    found = []
    for part in pieces(text, _OR):
        if match := _MEMBER.fullmatch(part):
            part = match[1]
        one = _bracketed(part) or _inequality(part)
        if one is None:
            return None
        variable, interval = one
        if variable and name and variable != name:
            return None
        name = name or variable
        found.append(interval)
    return name, found


def _bracketed(text: str) -> tuple[str, Interval] | None:
    found = group(text)
    if found is None or len(found.items) != 2 or found.opening not in ("(", "[") or found.closing not in (")", "]"):
        return None
    return "", Interval(found.items[0], found.items[1], found.opening == "(", found.closing == ")")


def _inequality(text: str) -> tuple[str, Interval] | None:
    sides = pieces(text, _RELATION)
    signs = [sign.replace("\\leq", "<=").replace("\\geq", ">=") for sign in _RELATION.findall(text)]
    if len(signs) + 1 != len(sides) or not 1 <= len(signs) <= 2 or not all(sides):
        return None
    if len({sign[0] for sign in signs}) > 1:
        return None
    if signs[0][0] == ">":
        sides, signs = sides[::-1], [sign.replace(">", "<") for sign in signs[::-1]]
    place = next((i for i, side in enumerate(sides) if _SYMBOL.fullmatch(side) and not side.startswith("\\in")), None)
    if place is None or (len(sides) == 3 and place != 1):
        return None
    low = (sides[place - 1], "=" not in signs[place - 1]) if place > 0 else ("-\\infty", True)
    high = (sides[place + 1], "=" not in signs[place]) if place + 1 < len(sides) else ("\\infty", True)
    if any(_mentions(bound, sides[place]) for bound in (low[0], high[0])):
        return None
    return sides[place], Interval(low[0], high[0], low[1], high[1])


def _mentions(text: str, symbol: str) -> bool:
    return re.search(rf"(?<![a-zA-Z\\]){re.escape(symbol)}(?![a-zA-Z])", text) is not None


def is_inequality(text: str) -> bool:
    """Whether a sign of order stands outside all brackets."""
    return len(pieces(text, _RELATION)) > 1


def equation(text: str) -> tuple[str, ...] | None:
    """The sides of an equation or a chain of them; None when there is no equals sign outside brackets."""
    sides = tuple(pieces(text, _EQUALS))
    return sides if len(sides) > 1 and all(sides) and not is_inequality(text) else None


def is_name(text: str) -> bool:
    """Whether the side of an equation only names what the other side gives: x, f(x), the area."""
    return _SYMBOL.fullmatch(plain(text)) is not None


def signs_written_out(text: str) -> list[str]:
    r"""An answer with one or more \pm as the two answers it stands for."""
    if "\\mp" in text or "\\pm" not in text:
        return [text]
    return [re.sub(r"\s*\\pm\s*", sign, text).removeprefix("+") for sign in ("+", "-")]
