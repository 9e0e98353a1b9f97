"""Small drawings for the report, as inline SVG from numbers alone: no text of a model ever gets in here.

Colours are classes of the page's style sheet, so that the drawings follow light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 160, 18
PLOT = (480, 220)
MARGIN = (48, 12, 34, 12)  # left, top, bottom, right
MOST_POINTS = 400


def bar(start: float, end: float, tone: str) -> Markup:
    """A bar from `start` to `end`, shares of the full width; `tone` is a class: kept, refused or plain."""
    left, width = WIDTH * _unit(start), WIDTH * max(0.0, _unit(end) - _unit(start))
    return Markup(
        '<svg class="bar" viewBox="0 0 {whole} 12" aria-hidden="true"><rect class="track" width="{whole}" height="12"/>'
        '<rect class="{tone}" x="{left}" width="{width}" height="12"/></svg>'
    ).format(whole=WIDTH, tone=tone, left=_number(left), width=_number(max(width, 1.0) if end > start else 0.0))


def interval(value: float, low: float, high: float, span: tuple[float, float], zero: bool = False) -> Markup:
    """A value with its interval on the scale `span`; `zero` marks where there is no difference."""

    def place(x: float) -> str:
        share = _unit((x - span[0]) / (span[1] - span[0]))
        return _number(4 + (WIDTH - 8) * share)

    middle = HEIGHT // 2
    marks = [0.0] if zero else [span[0], (span[0] + span[1]) / 2, span[1]]
    grid = Markup().join(
        Markup('<line class="{}" x1="{}" x2="{}" y1="1" y2="{}"/>').format(
            "zero" if zero else "grid", place(mark), place(mark), HEIGHT - 1
        )
        for mark in marks
    )
    return Markup(
        '<svg class="interval" viewBox="0 0 {w} {h}" aria-hidden="true">'
        '<line class="grid" x1="4" x2="{edge}" y1="{m}" y2="{m}"/>{grid}'
        '<line class="whisker" x1="{low}" x2="{high}" y1="{m}" y2="{m}"/>'
        '<circle class="dot" cx="{value}" cy="{m}" r="4"/></svg>'
    ).format(
        w=WIDTH, h=HEIGHT, m=middle, edge=WIDTH - 4, grid=grid, low=place(low), high=place(high), value=place(value)
    )


def curve(points: Sequence[Sequence[float]], title: str, description: str) -> Markup:
    """Loss over steps as a line with two labelled axes."""
    finite = [(float(step), float(loss)) for step, loss in points if math.isfinite(loss)]
    kept = _thinned(finite)
    left, top, bottom, right = MARGIN
    width, height = PLOT[0] - left - right, PLOT[1] - top - bottom
    first, last = kept[0][0], max(kept[-1][0], kept[0][0] + 1)
    ticks = _ticks(0.0, max(loss for _, loss in kept))
    highest = ticks[-1]

    def across(step: float) -> float:
        return left + width * (step - first) / (last - first)

    def down(loss: float) -> float:
        return top + height * (1 - loss / highest)

    rows = Markup().join(
        Markup(
            '<line class="grid" x1="{a}" x2="{b}" y1="{y}" y2="{y}"/>'
            '<text x="{t}" y="{ty}" text-anchor="end">{n}</text>'
        ).format(
            a=left, b=PLOT[0] - right, y=_number(down(tick)), t=left - 6, ty=_number(down(tick) + 4), n=f"{tick:g}"
        )
        for tick in ticks
    )
    steps = Markup().join(
        Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
            _number(across(step)), PLOT[1] - bottom + 16, anchor, f"{step:,.0f}"
        )
        for step, anchor in _step_labels(first, kept[-1][0])
    )
    path = " ".join(f"{_number(across(step))},{_number(down(loss))}" for step, loss in kept)
    return Markup(
        '<svg class="plot" viewBox="0 0 {w} {h}" role="img" aria-labelledby="loss-title loss-desc">'
        '<title id="loss-title">{title}</title><desc id="loss-desc">{description}</desc>{rows}{steps}'
        '<text x="{middle}" y="{foot}" text-anchor="middle">optimizer step</text>'
        '<polyline class="line" points="{path}"/></svg>'
    ).format(
        w=PLOT[0], h=PLOT[1], title=title, description=description, rows=rows, steps=steps,
        middle=_number(left + width / 2), foot=PLOT[1] - 4, path=path,
    )  # fmt: skip


def _step_labels(first: float, last: float) -> list[tuple[float, str]]:
    if last <= first:
        return [(first, "start")]
    return [(first, "start"), (round((first + last) / 2), "middle"), (last, "end")]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Evenly spaced points, the last one included."""
    every = max(1, math.ceil(len(points) / MOST_POINTS))
    kept = list(points[::every])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from `low` to at least `high`."""
    rough = max(high - low, 1e-9) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return [low + step * index for index in range(math.ceil((high - low) / step) + 1)]


def _unit(share: float) -> float:
    return min(1.0, max(0.0, share))


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
