r"""Where an answer states its result: boxes, tags, `####`, "the answer is", and a plain last line, in this order."""

from __future__ import annotations

import re

MAX_SCANNED_CHARS = 1_000_000  # of the end of an answer; a final answer does not lie further back

MAX_WORDS = 12  # of a stated answer; "Answer: First, we calculate the ..." begins a text

_BOX = re.compile(r"\\f?boxed\s*(?:\{|(?=[\dA-Za-z]))|\\fbox\s*\{")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
# What may stand between two boxes that are one answer: "\boxed{1} and \boxed{2}", "x = \boxed{1}, y = \boxed{2}".
_JOINT = re.compile(
    r"(?:[\s$,;&*]|\\[()\[\]]|\\q?quad|\\text\s*\{\s*(?:,?\s*(?:and|or),?)?\s*\}|\b(?:and|or)\b|[a-zA-Z](?:_\{?\w\}?)?\s*=)*"
)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"^####\s*(\S.*?)\s*$", re.MULTILINE)
_STATED = re.compile(
    r"\b(?:answer|correct (?:option|choice)|final result)s?\b(?: to [^.\n:]{1,80}?)?(?: for [^.\n:]{1,80}?)?"
    r"(?:[ \t*_]*(?:is|are|would be|will be|=)[ \t]*(?:therefore|thus|then)?[ \t*_]*:?|[ \t*_]*:)"
    r"[ \t*_]*\n*[ \t]*(?=\S)"
    r"|\bfinal answer[*_ \t]*\n+[ \t]*(?=\S)|^A:[ \t]*(?=\S)",
    re.IGNORECASE | re.MULTILINE,
)
_DISPLAY = re.compile(r"\\\[(.+?)\\\]|\$\$(.+?)\$\$|\\\((.+?)\\\)|\$([^$\n]+?)\$(?!\d)", re.DOTALL)
_STOP = re.compile(
    r"(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bSt)\.(?=\s|$)|\n|[!?](?=\s|$)"
    r"|[,;]?\s(?:because|since|as (?:the|it|we|this)|which|so that|I hope)\b"
)
_FIGURE = re.compile(
    r"(?<![\w.,/^{\\])(?<![-+*/×]\s)(?<![-+*/×])(?:-(?=[\d$€£]))?(?:[$€£]\s?)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?:\s*\\?%)?"
    r"(?![\w^/]|[.,:]\d|\s*[-+*/×^=]\s*\d|\s*[+*/^=]\s*[a-zA-Z(\\])"
)
_NOT_ONE = re.compile(
    r"\bor\b|\bnot\s+\S*\d|\beither\b|\d\s*(?:hundred|thousand|million|billion|trillion|dozen|percent)\b", re.IGNORECASE
)
_PREDICATE = re.compile(
    r"\b(?:is|are|was|were|be|equals?|total of)\s+"
    rf"({_FIGURE.pattern}|\$[^$]+\$|\\\(.+?\\\))(?:\s+[a-zA-Z]+){{0,3}}\.?$"
)
_BOLD = re.compile(r"(?<![\w)])\*\*(.+?)\*\*|(?<=\s)\*\*(?=\w)")  # not the powers of 2*x**8 - y**5
_WORKED = re.compile(r"<<[^<>]*>>")
_SYMBOLIC = re.compile(r"[\d\\^=$]")
_PROSE = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z]{3,}(?![a-zA-Z}])")


def final_answer(answer: str) -> str | None:
    r"""The final answer in what follows the thought, as it is written there; None when none is plainly stated.

    The last `\boxed{}` counts, with those that are joined to it (by a comma, "and", "or") as one list; else the last
    `<answer>`, `####` or "answer is"; else a text that is nothing but a formula, or the one figure that the last
    sentence concludes with.
    """
    text = answer[-MAX_SCANNED_CHARS:]
    boxes = _boxes(text)
    if boxes:
        return ", ".join(dict.fromkeys(boxes))
    for pattern in (_TAGGED, _HASHES):
        found: list[str] = pattern.findall(text)
        if found:
            return _stated(found[-1]) or _distilled(found[-1].strip())
    if _BOX.search(text):
        return _stated(text)  # cut inside its box
    return _stated(text) or _bare(text) or _concluded(text)


def _boxes(text: str) -> list[str]:
    """The boxes of the last statement, in order."""
    found: list[str] = []
    first = len(text)
    for match in reversed(list(_BOX.finditer(text))):
        span = _box_end(text, match)
        if span is None:
            if found:
                break
            continue
        content, end = span
        if found and end > first:
            if content.strip().startswith("\\") and "boxed" in content and end >= first:
                first = match.start()
            continue
        if found and not _JOINT.fullmatch(text, end, first):
            break
        found.insert(0, content.strip())
        first = match.start()
    return found


def _box_end(text: str, match: re.Match[str]) -> tuple[str, int] | None:
    if not match.group().endswith("{"):
        word = re.compile(r"\d+(?:\.\d+)?|[A-Za-z]").match(text, match.end())
        return (word.group(), word.end()) if word else None
    depth = 1
    for brace in _BRACES.finditer(text, match.end()):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[match.end() : brace.start()], brace.end()
    return None  # cut inside the box


def _stated(text: str) -> str | None:
    last = next(reversed(list(_STATED.finditer(text))), None)
    if last is None:
        return None
    rest = text[last.end() : last.end() + 4000]
    if display := _DISPLAY.match(rest):
        following = _STOP.split(rest[display.end() :], maxsplit=1)[0]
        # "$x=1$ or $x=2$" is one answer; "$4$ apples" and "$4$ (see above)" end with the formula.
        if not re.match(r"\s*(?:(?:,|and\b|or\b)\s*[$\\\d]|\\?%|percent|hundred|thousand|million|billion)", following):
            return next(group for group in display.groups() if group is not None).strip()
    found: str = _STOP.split(rest, maxsplit=1)[0].strip(" \t*_")
    if not found or re.match(r"(?:not|to|that|in|an?|the following)\s+[a-z]", found):
        return None
    distilled = _distilled(found)
    return None if distilled == found and len(_PROSE.findall(found)) > MAX_WORDS else distilled


def _distilled(text: str) -> str:
    """The one figure or formula of a sentence ("There are 9 boys at the meeting"); other texts as they are."""
    text = _BOLD.sub(r"\1", text)
    formulas = list(_DISPLAY.finditer(text))
    rest = _DISPLAY.sub(" ", text)
    if len(_PROSE.findall(rest)) < 2 or _NOT_ONE.search(rest):
        return text
    figures = [m.group().strip() for m in _FIGURE.finditer(rest)]
    figures += [next(group for group in m.groups() if group is not None).strip() for m in formulas]
    if len(figures) == 1:
        return str(figures[0])
    predicate = _PREDICATE.search(text)
    return str(predicate[1]).strip() if predicate else text


def _bare(text: str) -> str | None:
    """The whole text, when it is one formula or figure and nothing else."""
    text = text.strip()
    if not text or len(text) > 2000 or "\n\n" in text or not _SYMBOLIC.search(text):
        return None
    formulas = list(_DISPLAY.finditer(text))
    around = _DISPLAY.split(text)
    if len(formulas) == 1 and not around[-1].strip(" .") and not re.search(r"\d", around[0]):
        text = next(group for group in formulas[0].groups() if group is not None).strip()
    words = _PROSE.findall(re.sub(r"\\(?:text|mathrm|begin|end)\s*\{[^{}]*\}", "", text))
    return text if len(words) <= 2 and not re.search(r"[.!?]\s", text) else None


def _concluded(text: str) -> str | None:
    """The figure of a last sentence that concludes, when there is only one or it follows the last equals sign."""
    lines = [line for line in _WORKED.sub("", text[-2000:]).splitlines() if line.strip()]
    if not lines:
        return None
    line = lines[-1].strip()
    if not line.endswith((".", "!", "$", "\\]", "\\)", "*", "%", ")")) and not line[-1].isdigit():
        return None  # cut, or no sentence
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z])", line := _BOLD.sub(r"\1", line))[-1]
    if not _FIGURE.search(sentence) and "$" not in sentence:
        sentence = line  # "There are 36 teachers at Dr. Wertz's school."
    formulas = [m for m in _DISPLAY.finditer(sentence) if not re.match(r"\s*[A-Za-z]\s*$", m.group().strip("$\\()[]"))]
    if len(formulas) == 1 and not _FIGURE.search(sentence.replace(formulas[0].group(), " ")):
        return next(group for group in formulas[0].groups() if group is not None).strip()
    if "=" in sentence and not formulas:
        if re.search(r"\d\s*[a-zA-Z]\b[^=]*=[^=]*$", sentence):
            return None  # an equation with unknowns
        figures = _FIGURE.findall(sentence.rpartition("=")[2])
        return figures[0].strip() if len(figures) == 1 else None
    figures = _FIGURE.findall(sentence)
    return figures[0].strip() if len(figures) == 1 else None
