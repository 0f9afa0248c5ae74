"""Figures of a report, as SVG within HTML: colours and fonts are those of the page, dark or light."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Palette of Okabe and Ito, safe for any colour vision; the page's --c0 to --c5, lighter in dark mode."""
STYLES = ("solid", "dashed", "dotted")
_INK, _PAGE = "#010203", "#040506"  # stand for the page's own colours until the SVG is written


@dataclass(frozen=True)
class Line:
    """Curve of a figure.

    Attributes:
        label: label in the legend.
        points: optimiser step -> value.
        smooth: the same without its noise; None for `trailing_mean`.
        marks: steps to mark, each with a diamond.
    """

    label: str
    points: dict[int, float]
    smooth: dict[int, float] | None = None
    marks: tuple[int, ...] = ()


def figure(name: str, title: str, lines: Sequence[Line]) -> str:
    """Return a `<figure>` with the curves, values faint and smoothed ones bold, and their legend; "" if there is no curve.

    Args:
        name: name unique within a page.
        title: heading of the figure.
        lines: the curves; one that is 0 throughout is only named.
    """
    present = [(number, line) for number, line in enumerate(lines) if line.points]
    if not present:
        return ""
    smooth = {number: line.smooth or trailing_mean(line.points) for number, line in present}
    legend, spoken = [], []
    for number, line in present:
        first, *_, last = [*smooth[number].values()] * 2
        zero = not any(line.points.values())
        said = "0 throughout" if zero else f"{_short(first)} to {_short(last)}"
        flat = f", flat from step {' and '.join(map(str, line.marks[-2:]))}" if line.marks else ""
        spoken.append(f"{line.label} {said}{flat}".strip())
        legend.append(f"<li>{swatch(number)}{escape(line.label)} <b>{said}</b>{flat}</li>")
    drawn = [(number, line) for number, line in present if any(line.points.values())]
    svg = _svg(name, drawn, smooth) if drawn else ""
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape("; ".join([title, *spoken]))}"', 1)
    return f'<figure>\n<h4>{escape(title)}</h4>\n{svg}<ul class="legend">{"".join(legend)}</ul>\n</figure>\n'


def swatch(number: int) -> str:
    """Return a short sample of the number-th line, as HTML."""
    colour, style = _look(number)
    return f'<span class="swatch" style="border-top: 3px {style} var(--c{colour})"></span>'


def trailing_mean(points: dict[int, float]) -> dict[int, float]:
    """Return the mean of each point and those before it, a twentieth of all points but at least 5; fewer at the start."""
    window = max(5, len(points) // 20)
    values = list(points.values())
    return {
        step: sum(part) / len(part)
        for end, step in enumerate(points, start=1)
        if (part := values[max(0, end - window) : end])
    }


def onsets(flags: dict[int, float]) -> tuple[int, ...]:
    """Return the steps at which a value turns from 0 to 1."""
    return tuple(step for (_, before), (step, now) in pairwise([(0, 0.0), *flags.items()]) if now > before)


def _look(number: int) -> tuple[int, str]:
    return number % len(COLOURS), STYLES[number // len(COLOURS) % len(STYLES)]


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _svg(name: str, lines: Sequence[tuple[int, Line]], smooth: dict[int, dict[int, float]]) -> str:
    style: Any = {  # matplotlib's types list the known keys
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "text.color": _INK,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "grid.color": _INK,
    }
    with mpl.rc_context(style):
        drawing = Figure(figsize=(4.4, 2.5))
        drawing.patch.set_visible(False)
        axes = drawing.add_axes((0.15, 0.165, 0.835, 0.8))
        axes.patch.set_visible(False)
        values = []
        for number, line in lines:
            colour, dashes = _look(number)
            bold = smooth[number]
            values += [*line.points.values(), *bold.values()]
            if bold != line.points:
                axes.plot(
                    list(line.points), list(line.points.values()), color=COLOURS[colour], linewidth=0.7, alpha=0.4
                )
            dot = "o" if len(bold) == 1 else None
            axes.plot(
                list(bold), list(bold.values()), marker=dot, linestyle=dashes, color=COLOURS[colour], linewidth=1.6
            )
            marked = [step for step in line.marks if step in bold]
            axes.plot(
                marked, [bold[s] for s in marked], "D", color=COLOURS[colour], markersize=7, markeredgecolor=_PAGE
            )
        if min(values) >= 0 and max(values) <= 1:
            axes.set_ylim(-0.01, 1.03 if max(values) > 0.5 else None)
        axes.set_xlabel("optimiser step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(alpha=0.15, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        out = io.StringIO()
        drawing.savefig(out, format="svg")
    return _inline(name, out.getvalue())


def _inline(name: str, text: str) -> str:
    """Return the SVG as part of a page: unique ids, the page's colours, no references to other addresses."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"| (?:width|height)="[^"]*pt"|font-family:[^;"]*; ', "", text)
    text = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    for number, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--c{number})")
    return text.replace(_INK, "currentColor").replace(_PAGE, "var(--page)")
