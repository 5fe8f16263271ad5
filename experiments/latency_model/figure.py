"""Draws ``results/latency_model.svg`` from ``results/plans.csv``: estimates beside measurements, and their errors.

python experiments/latency_model/figure.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results"
COLOURS = {"roofline": "#bbbbbb", "FLOPs": "#e69f00", "layer sum": "#56b4e9", "price list": "#d55e00"}
WIDTH, HEIGHT, GAP, LEFT, TOP = 250, 230, 62, 58, 46
LEAST_ERROR, MOST_ERROR = 0.002, 1.0


def log_axis(low: float, high: float, start: float, end: float, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels of values between ``low`` and ``high`` on a logarithmic axis."""
    share = np.log(np.clip(values, low, high) / low) / np.log(high / low)
    return start + share * (end - start)


def scatter(rows: list[dict[str, str]], x: float, y: float) -> list[str]:
    """One model: estimates against measurements, each diagonal line 0, +5% and -5%."""
    measured = np.array([float(row["measured_ms"]) for row in rows])
    low, high = measured.min() / 1.15, measured.max() * 1.15
    parts = []
    for offset, dash in ((1.0, ""), (1.05, ' stroke-dasharray="3 3"'), (1 / 1.05, ' stroke-dasharray="3 3"')):
        ends = np.array([max(low, low / offset), min(high, high / offset)])
        a, b = log_axis(low, high, x, x + WIDTH, ends)
        c, d = log_axis(low, high, y + HEIGHT, y, ends * offset)
        parts.append(line(a, c, b, d, dash))
    across = log_axis(low, high, x, x + WIDTH, measured)
    for name, colour in COLOURS.items():
        up = log_axis(low, high, y + HEIGHT, y, np.array([float(row[name]) for row in rows]))
        parts += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" fill="{colour}"/>' for a, b in zip(across, up, strict=True)
        ]
    for tick in ticks(low, high):
        at = log_axis(low, high, 0.0, 1.0, np.array([tick]))[0]
        parts.append(text(x + at * WIDTH, y + HEIGHT + 15, f"{tick:g}"))
        parts.append(text(x - 6, y + HEIGHT - at * HEIGHT + 4, f"{tick:g}", "end"))
    parts.append(text(x + WIDTH / 2, y + HEIGHT + 31, "measured, ms"))
    return [*parts, frame(x, y)]


def shares(rows: list[dict[str, str]], x: float, y: float) -> list[str]:
    """One model: the share of plans whose estimate is off by no more than so much."""
    measured = np.array([float(row["measured_ms"]) for row in rows])
    parts = []
    for limit in (0.05, 0.1):
        at = log_axis(LEAST_ERROR, MOST_ERROR, x, x + WIDTH, np.array([limit]))[0]
        parts.append(
            f'<line x1="{at:.1f}" y1="{y}" x2="{at:.1f}" y2="{y + HEIGHT}" stroke="#888" stroke-dasharray="3 3"/>'
        )
    up = y + HEIGHT - HEIGHT * np.arange(1, len(rows) + 1) / len(rows)
    for name, colour in COLOURS.items():
        errors = np.sort(np.abs(np.array([float(row[name]) for row in rows]) / measured - 1.0))
        across = log_axis(LEAST_ERROR, MOST_ERROR, x, x + WIDTH, errors)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        at = log_axis(LEAST_ERROR, MOST_ERROR, x, x + WIDTH, np.array([tick]))[0]
        parts.append(text(at, y + HEIGHT + 15, f"{100 * tick:g}%"))
    parts += [text(x - 6, y + HEIGHT * (1 - share) + 4, f"{100 * share:.0f}%", "end") for share in (0.0, 0.5, 0.95)]
    parts.append(text(x + WIDTH / 2, y + HEIGHT + 31, "error of the estimate"))
    return [*parts, frame(x, y)]


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 in every decade."""
    every = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]
    return [tick for tick in every if low <= tick <= high]


def frame(x: float, y: float) -> str:
    return f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#444"/>'


def line(x1: float, y1: float, x2: float, y2: float, dash: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#888"{dash}/>'


def circle(x: float, y: float, radius: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'


def text(x: float, y: float, words: str, anchor: str = "middle", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>'


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """One column a model: estimates above, shares below."""
    parts, models = [], list(dict.fromkeys(row["model"] for row in rows))
    for column, model in enumerate(models):
        x, own = LEFT + column * (WIDTH + GAP), [row for row in rows if row["model"] == model]
        parts.append(text(x + WIDTH / 2, TOP - 8, f"{model}, {len(own)} unseen plans", weight="bold"))
        parts += scatter(own, x, TOP) + shares(own, x, TOP + HEIGHT + GAP)
    parts.append(
        f'<text transform="translate(16 {TOP + HEIGHT / 2}) rotate(-90)" text-anchor="middle">estimated, ms</text>'
    )
    middle = TOP + HEIGHT * 1.5 + GAP
    parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">share of plans</text>')
    for place, (name, colour) in enumerate(COLOURS.items()):
        parts.append(circle(LEFT + 6 + 100 * place, 14, 5, colour))
        parts.append(text(LEFT + 16 + 100 * place, 18, name, "start"))
    size = f'width="{max(460, LEFT + len(models) * (WIDTH + GAP) - GAP + 14)}" height="{TOP + 2 * HEIGHT + GAP + 44}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    body = "\n".join([head, f'<rect {size} fill="white"/>', *parts, "</svg>"])
    path.write_text(body + "\n", encoding="utf-8")


if __name__ == "__main__":
    with (RESULTS / "plans.csv").open(encoding="utf-8") as file:
        draw(list(csv.DictReader(file)), RESULTS / "latency_model.svg")
