"""What a page is made of, and the two ways it is written: one HTML file, one Markdown file.

The content is built once, as blocks; the templates `report.html.j2` and `report.md.j2` only write it down. Every value
that a template prints is treated as hostile: control characters are replaced, then it is escaped for the language of
the file. Only `Markup` passes as it is, and only `figures.py` makes it, from numbers.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from markupsafe import Markup

from distill.base.progress import printable

_MARKDOWN_SIGNS = re.compile(r"([\\`*\[\]<|~&$]|(?<![^\W_])_|_(?![^\W_])|^[-+#>=])")
_LIST_NUMBER = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
_BACKTICKS = re.compile(r"`+")


@dataclass(frozen=True)
class Figure:
    """A drawing for the HTML page; `text` says the same in words and stands beside it, or alone in Markdown."""

    svg: Markup
    text: str
    kind: ClassVar[str] = "figure"


Cell = str | Figure


def _words(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Table:
    """`align` has one letter a column: l for words, n for words on one line, w for long text, r for numbers."""

    columns: Sequence[str]
    align: str
    rows: Sequence[Sequence[Cell]]
    kind: ClassVar[str] = "table"

    @property
    def in_words(self) -> Table:
        """Without the columns that are drawings only."""
        said = [
            column
            for column in range(len(self.columns))
            if not self.rows or any(_words(row[column]) for row in self.rows)
        ]
        return Table(
            [self.columns[column] for column in said],
            "".join(self.align[column] for column in said),
            [[row[column] for column in said] for row in self.rows],
        )


@dataclass(frozen=True)
class Verbatim:
    """Text as it is: code of ours, or what a model wrote."""

    text: str
    label: str = ""
    language: str = ""
    kind: ClassVar[str] = "verbatim"


@dataclass(frozen=True)
class Fold:
    """Blocks that open on demand."""

    summary: str
    blocks: Sequence[Block]
    kind: ClassVar[str] = "fold"


Block = Text | Table | Figure | Verbatim | Fold


@dataclass(frozen=True)
class Section:
    """A heading with its blocks."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """`headline`: the result first, then what belongs beside it. `warnings` come before everything else."""

    title: str
    headline: Sequence[str]
    sections: Sequence[Section]
    warnings: Sequence[str] = field(default_factory=list)


def html(page: Page) -> str:
    """One self-contained page: no script, nothing fetched."""
    return _write("report.html.j2", page, lambda text: text)


def markdown(page: Page) -> str:
    """The same in Markdown, without raw HTML."""
    return _write("report.md.j2", page, lambda text: Markup(plain(text)))


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line: in a paragraph, a heading or a cell of a table."""
    return _LIST_NUMBER.sub(r"\1\\\2", _MARKDOWN_SIGNS.sub(r"\\\1", " ".join(text.split())))


def fence(text: str) -> str:
    """A run of backticks that is longer than any in `text`, so that nothing in it can close the block."""
    return "`" * max(3, 1 + max((len(run) for run in _BACKTICKS.findall(text)), default=0))


def _write(template: str, page: Page, escape: Callable[[str], str]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    def finalize(value: Any) -> Any:
        return value if isinstance(value, Markup) or not isinstance(value, str) else escape(printable(value))

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["fence"] = lambda text: Markup(fence(text))
    environment.filters["inside_fence"] = lambda text: Markup(printable(text))
    return environment.get_template(template).render(page=page)


def percent(share: float | None) -> str:
    """0.523 -> "52.3%"."""
    return "–" if share is None else f"{100 * share:.1f}%"


def points(difference: float) -> str:
    """0.213 -> "+21.3"; a minus is a minus sign, and nothing has no sign."""
    said = f"{100 * difference:+.1f}"
    return "0.0" if said in ("+0.0", "-0.0") else said.replace("-", "−")


def count(number: float) -> str:
    """1234567.8 -> "1,234,568"."""
    return f"{number:,.0f}"


def dollars(amount: float) -> str:
    """Dollars in words: a dollar sign would start a formula in Markdown."""
    return "0 USD" if amount == 0 else f"{amount:,.2f} USD" if amount >= 1 else f"{amount:.3g} USD"


def megabytes(size: float | None) -> str:
    """Bytes in millions."""
    return "–" if size is None else f"{size / 1e6:,.2f} MB" if size < 100e6 else f"{size / 1e6:,.0f} MB"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters, with the middle left out: beginning and end of a thought say the most."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {count(len(text) - 2 * half)} characters left out ...]\n{text[-half:]}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return textwrap.shorten(", ".join(names), 400, placeholder=" ...")
