"""Whether two formulas are the same: parsed by math-verify's parser, compared by value, then by math-verify.

Runs in the child process of `equality.py`, which kills it when it takes too long. Values are compared to 30 digits at
several points, relatively: math-verify rounds to six places, so that tiny numbers are all the same to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

from distill.base.judge import numbers
from distill.base.judge.typeset import latex

DIGITS = 30
TOLERANCE = Fraction(1, 10**18)
# Both signs, so that |x| is not x; no simple ratios between them, so that chance does not make formulas equal.
POINTS = (
    ("1.2345678901", "2.7231984563", "0.6180339887", "3.1937462819", "1.7639182736"),
    ("-1.3719283746", "0.8192837465", "-2.1928374651", "1.4142918273", "-0.5193746281"),
    ("2.9182736451", "-1.6273849501", "1.1237465019", "-0.7364518293", "2.2837465091"),
    ("0.4719283746", "3.3918273645", "2.5192837461", "0.9281736452", "1.3918273645"),
)


def equal(gold: str, answer: str) -> bool | None:
    """Whether the answer is the gold one; None when one of them cannot be read, or nothing can be decided."""
    from math_verify import verify

    left, right = _parsed(gold), _parsed(answer)
    if left is None:
        return None
    if right is None:
        return False
    decided = _same_value(left, right, gold, answer)
    if decided != "not comparable by value":
        return {"same": True, "other": False}.get(decided)
    return bool(verify(left, right, float_rounding=12, allow_set_relation_comp=True, timeout_seconds=None))


@lru_cache(maxsize=256)  # a gold answer comes back with each of its samples
def _parsed(text: str) -> Any:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex
    from sympy import Basic, Float, MatrixBase, Rational
    from sympy.logic.boolalg import BooleanAtom

    config = NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="none")
    try:
        normal = normalize_latex(latex(text), config)
        found = latex2sympy(
            normal, is_real=not should_treat_as_complex(normal), convert_degrees=False,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )  # fmt: skip
        if not isinstance(found, Basic | MatrixBase) or isinstance(found, BooleanAtom):
            return None
        return found.replace(lambda e: isinstance(e, Float), lambda e: Rational(str(e)))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the parser raises whatever it likes on text that is no formula
        return None


def _same_value(left: Any, right: Any, gold: str, answer: str) -> str:
    """Same, other, unsure (equal for some values only), or not comparable by value."""
    from sympy import Eq, Expr

    if isinstance(left, Eq) and isinstance(right, Eq):
        return "same" if _same_equation(left, right) else "other"
    if not (isinstance(left, Expr) and isinstance(right, Expr)) or left.is_Matrix or right.is_Matrix:
        return "not comparable by value"
    unknowns = left.free_symbols | right.free_symbols
    verdicts = []
    for values in _values(left, right):
        verdicts.append(_close(*values))
        if verdicts == [False] and unknowns:
            return "other"
    if not verdicts:
        return "not comparable by value"
    if all(verdicts):
        return "same"
    if unknowns:
        return "unsure"  # such as |x| and x
    value = _fraction(left if numbers.read(answer) else right)
    near = value is not None and numbers.approximates(numbers.read(gold), numbers.read(answer), value)
    return "same" if near else "other"


def _values(left: Any, right: Any) -> Iterator[tuple[Any, Any]]:
    """Values of both at the points where both have one."""
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    for point in POINTS if symbols else POINTS[:1]:
        places = {symbol: point[i % len(point)] + str(i) for i, symbol in enumerate(symbols)}
        pair = [_value(side, places) for side in (left, right)]
        if pair[0] is not None and pair[1] is not None:
            yield pair[0], pair[1]


def _value(side: Any, places: dict[Any, str]) -> Any:
    from sympy import Rational

    try:
        value = side.subs({symbol: Rational(place) for symbol, place in places.items()}).doit().evalf(DIGITS)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - sympy raises many kinds where a formula has no value
        return None
    return value if value.is_number and value.is_finite and value.is_comparable is not None else None


def _close(left: Any, right: Any) -> bool:
    gap, size = abs(left - right), max(abs(left), abs(right))
    # Next to an exact zero there is no relative size; 30 digits leave this much of what should cancel.
    return bool(gap <= size * float(TOLERANCE)) or bool(size < 1e-24)


def _same_equation(left: Any, right: Any) -> bool:
    """One a constant multiple of the other; of statements without unknowns, which are all true, both sides the same."""
    from sympy import Expr, together

    sides = (left.lhs, left.rhs, right.lhs, right.rhs)
    if not all(isinstance(side, Expr) for side in sides):
        return bool(left == right)
    if not left.free_symbols and not right.free_symbols:
        pairs = [pair for i in (0, 1) for pair in _values(sides[i], sides[i + 2])]
        return len(pairs) == 2 and all(_close(*pair) for pair in pairs)
    gaps = [equation.lhs - equation.rhs for equation in (left, right)]
    return _proportional(*gaps) or _proportional(*(together(gap).as_numer_denom()[0] for gap in gaps))


def _proportional(left: Any, right: Any) -> bool:
    if not left.free_symbols or left.free_symbols != right.free_symbols:
        return False
    ratios = [a / b for a, b in _values(left, right) if b != 0 and a != 0]
    return len(ratios) >= 3 and all(_close(ratio, ratios[0]) for ratio in ratios)


def _fraction(value: Any) -> Fraction | None:
    number = _value(value, {})
    return Fraction(str(number)) if number is not None and number.is_real else None
