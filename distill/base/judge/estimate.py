r"""Roughly what a formula is worth: enough to tell most wrong answers from right ones without computer algebra.

Reads sums, products, powers, `\frac`, `\sqrt`, `\pi`, numbers and named unknowns, and gives up on everything else.
"""

from __future__ import annotations

import math
import re

FAR = 0.02  # relative; rounding to three digits stays below it
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<name>\\(?:theta|alpha|beta|lambda|mu|omega|zeta)(?![a-zA-Z])|[a-zA-Z])"
    r"(?P<index>_(?:\{\w+\}|\w))?|(?P<sign>\\(?:frac|sqrt|pi|cdot|times)(?![a-zA-Z])|\*\*|[-+*/^(){}]))\s*"
)
_WORD = re.compile(r"(?<![\\{_a-zA-Z])[a-zA-Z]{3,}")


class _UnreadableError(Exception):
    """The formula holds something that is not read here."""


def far_apart(gold: str, answer: str) -> bool:
    """Whether both formulas could be read and differ clearly in value; False says nothing."""
    try:
        left, right = _Reader(gold), _Reader(answer)
        gaps = []
        for shift in (0.37, 0.83):
            a, b = left.value(shift), right.value(shift)
            gaps.append(abs(a - b) > FAR * max(abs(a), abs(b)))
        return all(gaps)
    except (_UnreadableError, OverflowError, ZeroDivisionError, RecursionError):
        return False


class _Reader:
    """A recursive descent over the tokens that computes as it goes."""

    def __init__(self, text: str) -> None:
        if len(text) > 300 or _WORD.search(text):
            raise _UnreadableError
        self.tokens: list[str] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise _UnreadableError
            self.tokens.append(match.group().strip())
            position = match.end()

    def value(self, shift: float) -> float:
        """The value where each unknown has a number of its own, made from its name and the shift."""
        self.at, self.shift = 0, shift
        found = self._sum()
        if self.at < len(self.tokens) or not math.isfinite(found):
            raise _UnreadableError
        return found

    def _next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _take(self, *wanted: str) -> str:
        token = self._next()
        if token not in wanted:
            raise _UnreadableError
        self.at += 1
        return token

    def _sum(self) -> float:
        total = self._product()
        while self._next() in ("+", "-"):
            sign = 1 if self._take("+", "-") == "+" else -1
            total += sign * self._product()
        return total

    def _product(self) -> float:
        if self._next() in ("+", "-"):
            return (1 if self._take("+", "-") == "+" else -1) * self._product()
        total = self._power()
        while (token := self._next()) not in ("", "+", "-", ")", "}"):
            if token in ("*", "/", "\\cdot", "\\times"):
                self.at += 1
            elif token[0].isdigit():
                raise _UnreadableError  # 2 3 and 1 1/2 are no plain products
            factor = -self._power() if self._next() == "-" and self._take("-") else self._power()
            total = total / factor if token == "/" else total * factor
        return total

    def _power(self) -> float:
        base = self._atom()
        if self._next() not in ("^", "**"):
            return base
        self.at += 1
        exponent = -self._atom() if self._next() == "-" and self._take("-") else self._atom()
        if self._next() in ("^", "**") or (base < 0 and exponent != int(exponent)):
            raise _UnreadableError
        return float(base**exponent)

    def _atom(self) -> float:
        token = self._take(self._next() or "end")
        if token[0].isdigit() or token[0] == ".":
            return float(token)
        if token in ("(", "{"):
            inner = self._sum()
            self._take({"(": ")", "{": "}"}[token])
            return inner
        if token == "\\frac":
            over = self._atom()
            return over / self._atom()
        if token == "\\sqrt":
            inner = self._atom()
            if inner < 0:
                raise _UnreadableError
            return math.sqrt(inner)
        if token == "\\pi":
            return math.pi
        if token in ("i", "e", "C", "d", "\\cdot", "\\times") or not (token[0].isalpha() or token[0] == "\\"):
            raise _UnreadableError
        return 1 + self.shift * (sum(ord(c) * (i + 1) for i, c in enumerate(token)) % 97) / 41
