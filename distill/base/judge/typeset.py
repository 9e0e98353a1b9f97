"""An answer's typesetting taken off: one spelling for each symbol, macro and delimiter; units told apart."""

from __future__ import annotations

import re
import unicodedata

_VULGAR = {c: unicodedata.normalize("NFKC", c).replace("\u2044", "/") for c in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_SYMBOLS = {
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "×": r"\times ", "⋅": r"\cdot ",
    "·": r"\cdot ", "÷": "/", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"^\circ ", "−": "-", "–": "-",
    "±": r"\pm ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "≈": r"\approx ", "∗": "*", "′": "'", "’": "'",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "“": '"', "”": '"', "∨": r"\text{ or }",
}  # fmt: skip
_RENAMED = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\(?:left|right)(?![a-zA-Z])\.?", ""),
        (r"\\(?:bigg?|Bigg?)[lrm]?(?![a-zA-Z])", ""),
        (r"\\(?:displaystyle|textstyle|limits|boldsymbol|bm)(?![a-zA-Z])", ""),
        (r"\\(?:tfrac|dfrac|cfrac)(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:leqslant|leqq|le)(?![a-zA-Z])", r"\\leq"),
        (r"\\(?:geqslant|geqq|ge)(?![a-zA-Z])", r"\\geq"),
        (r"\\ne(?![a-zA-Z])", r"\\neq"),
        (r"\\(?:lor|vee)(?![a-zA-Z])", r"\\text{ or }"),
        (r"\\(?:land|wedge)(?![a-zA-Z])", r"\\text{ and }"),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:lbrace)(?![a-zA-Z])", r"\\{"),
        (r"\\(?:rbrace)(?![a-zA-Z])", r"\\}"),
        (r"\\(?:varnothing|oslash)(?![a-zA-Z])", r"\\emptyset"),
        (r"\\(?:degrees?)(?![a-zA-Z])", r"^\\circ"),
        (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ "),
        (r"\\(?:ldots|dots|cdots)(?![a-zA-Z])", "..."),
        (r"\\(?:mbox|text(?:rm|bf|it|sf|tt|normal)|math(?:rm|bf)|rm|operatorname\*?)\s*(?=\{)", r"\\text"),
        (r"\\text\s+(?=\{)", r"\\text"),
        (r"\{,\}|,\\!\s*", ","),
        (r"(?<=\d)\s*\^?\s*\{?\s*\\text\{\s*(?:th|st|nd|rd)\s*\}\s*\}?", ""),
        (r"(?<=\d)(?:th|st|nd|rd)\b", ""),
        (r"\\[!]", ""),
        (r"(?<!\\)\\(?:[,;:> ]|q?quad(?![a-zA-Z]))|~", " "),
        (r"\\%", "%"),
        (r"\\\$", "$"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*\{([^{}]*)\}\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*(\d|[a-zA-Z](?![a-zA-Z]))", r"\\sqrt{\1}"),
        (r"(?<![a-zA-Z\\])(?:infinity|infty|inf|oo)(?![a-zA-Z])", r"\\infty "),
        (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
    )
]
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[a-zA-Z]))")
_PAIRED_DOLLARS = re.compile(r"\$([^$]+)\$")
_WRAPPERS = (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("**", "**"), ("`", "`"), ('"', '"'))
_FUNCTIONS = re.compile(r"(?<![a-zA-Z\\])(sqrt|pi|sin|cos|tan|log|ln|exp)(?![a-zA-Z])")


def clean(text: str) -> str:
    r"""One spelling for each symbol and macro, outer delimiters off; `\text{}` stays, for it tells words and units."""
    text = text.encode("utf-8", "replace").decode()
    text = "".join(c if c.isprintable() else " " for c in text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+", lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
    # Before NFKC, which would make 1½ into 11/2 and x² into x2.
    text = re.sub("(\\d?)([" + "".join(_VULGAR) + "])", lambda m: f"{m[1]} {_VULGAR[m[2]]}", text)
    text = _ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2]}}}", text)
    for symbol, latex_ in _SYMBOLS.items():
        text = text.replace(symbol, latex_)
    text = unicodedata.normalize("NFKC", text)
    for pattern, new in _RENAMED:
        text = pattern.sub(new, text)
    return " ".join(_unwrapped(text).split())


def _unwrapped(text: str) -> str:
    before = None
    while text != before:
        before = text
        text = text.strip().removesuffix("\\\\").strip()
        for opening, closing in _WRAPPERS:
            size = len(opening) + len(closing)
            if len(text) > size and text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : -len(closing)]
                text = text if opening in inner or closing in inner else inner.strip()
        if text.endswith((".", ",", ";", ":")) and not text.endswith(".."):
            text = text[:-1].strip()
        text = _PAIRED_DOLLARS.sub(r" \1 ", text).strip()
    text = re.sub(r"(?<=[\d})])\s*\$", " ", text)  # a closing dollar whose partner was left outside the box
    return text.replace("\\(", "").replace("\\)", "").removesuffix("$").strip()


def plain(text: str) -> str:
    r"""`clean` text with the words of `\text{}` bare."""
    before = None
    while text != before:
        before, text = text, _TEXT.sub(r" \1 ", text)
    return " ".join(text.split())


def latex(text: str) -> str:
    """Programmers' notation as LaTeX: math-verify reads `x**12` as something else, and calls it equal."""
    text = re.sub(r"\s*\*\*\s*", "^", text)
    text = re.sub(r"\^\(([^()]*)\)", r"^{\1}", text)
    text = re.sub(r"\^([+-]?\d+)", r"^{\1}", text)
    text = re.sub(r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    return _FUNCTIONS.sub(r"\\\1 ", text).replace("*", r" \cdot ")


def pieces(text: str, separator: re.Pattern[str]) -> list[str]:
    """The text cut at the separators that stand outside all brackets."""
    found, depth, start, position = [], 0, 0, 0
    while position < len(text):
        if text.startswith(("\\{", "\\}"), position):
            depth += 1 if text[position + 1] == "{" else -1
            position += 2
            continue
        if text[position] in "([{":
            depth += 1
        elif text[position] in ")]}":
            depth -= 1
        elif depth == 0 and (match := separator.match(text, position)) and match.end() > position:
            found.append(text[start:position].strip())
            start = position = match.end()
            continue
        position += 1
    return [*found, text[start:].strip()]
