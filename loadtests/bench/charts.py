"""Plots as small SVG files, written by hand: bars, a group for each system or size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LEFT, RIGHT = 640, 130, 80
ROW, GAP, HEAD = 16, 12, 44
COLOURS = ("#2f6f9f", "#e08a3c", "#5d9e5f", "#9a5b9e")
FONT = 'font-family="system-ui, sans-serif" font-size="12"'
INK = "#808890"
"""Legible on a white and on a black page."""


def bars(title: str, groups: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """A group of horizontal bars for each name, one bar for each series."""
    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    most = max(value for group in groups.values() for value in group.values()) or 1
    drawn, y = [_head(title), *_legend(series)], HEAD + 16
    for name, group in groups.items():
        middle = y + len(group) * ROW / 2 + 4
        drawn.append(_text(LEFT - 8, middle, name, "end"))
        for value_of, value in group.items():
            width = (WIDTH - LEFT - RIGHT) * value / most
            colour = COLOURS[series.index(value_of) % len(COLOURS)]
            drawn.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{ROW - 3}" '
                f'fill="{colour}"/>'
            )
            drawn.append(_text(LEFT + width + 5, y + 11, f"{value:g} {unit}"))
            y += ROW
        y += GAP
    return _svg(drawn, y)


def _legend(series: Sequence[str]) -> list[str]:
    drawn = []
    x = LEFT
    for number, name in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        drawn.append(f'<rect x="{x}" y="32" width="10" height="10" fill="{colour}"/>')
        drawn.append(_text(x + 15, 41, name))
        x += 30 + 7 * len(name)
    return drawn


def _head(title: str) -> str:
    return (
        f'<text x="8" y="18" {FONT} font-weight="600" fill="{INK}">{escape(title)}</text>'
    )


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" {FONT} fill="{INK}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


def _svg(drawn: Sequence[str], height: float) -> str:
    view = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    inside = "\n".join(drawn)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {view}>\n{inside}\n</svg>\n'
