"""Charts as inline SVG, which take their colors from the page's style sheet."""

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

WIDTH, HEIGHT, FOOT = 640, 190, 22
BINS = 32
_TAIL = 0.5
"""Percent at either end that go into the outermost bins, so that an outlier does not compress the rest."""


def histogram(series: Mapping[str, Sequence[float]]) -> Markup:
    """Draw the distributions of several series as outlines with the class `series-NAME`, and their means, dashed.

    Heights are fractions of a series, so that series of different lengths can be compared.
    """
    values = {name: np.asarray(each, float) for name, each in series.items()}
    values = {name: each[np.isfinite(each)] for name, each in values.items()}
    values = {name: each for name, each in values.items() if len(each)}
    if not values:
        return Markup("")
    low, high = _range(np.concatenate(list(values.values())))
    edges = np.linspace(low, high, BINS + 1)
    shares = {name: np.histogram(each.clip(low, high), edges)[0] / len(each) for name, each in values.items()}
    top = max(float(each.max()) for each in shares.values())
    shapes = [_outline(name, each / top) for name, each in shares.items()]
    shapes += [_mean(name, (float(each.mean()) - low) / (high - low)) for name, each in values.items()]
    ticks = [(x, f"{low + x * (high - low):.3g}") for x in (0, 0.25, 0.5, 0.75, 1)]
    return _svg(shapes, ticks, "distribution of " + " and ".join(values))


def code_usage(counts: Sequence[int]) -> Markup:
    """Draw how often each code was chosen, the most frequent first, on a logarithmic scale."""
    ordered = np.log10(1 + np.sort(np.asarray(counts, float))[::-1])
    if not len(ordered) or not ordered.max():
        return Markup("")
    codes = np.linspace(0, len(ordered) - 1, min(len(ordered), WIDTH // 2)).astype(int)
    ticks = [(x, f"{round(x * len(ordered))}") for x in (0, 0.25, 0.5, 0.75, 1)]
    label = f'<text class="tick" x="{WIDTH - 4}" y="14" text-anchor="end">maximum: {int(max(counts))}</text>'
    shapes = [_outline("restored", ordered[codes] / ordered.max()), Markup(label)]  # noqa: S704  # only numbers
    return _svg(shapes, ticks, "codebook usage")


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [_TAIL, 100 - _TAIL])
    if high - low < 1e-9 * max(1.0, abs(high)):
        return float(low) - 0.5, float(high) + 0.5
    return float(low), float(high)


def _outline(name: str, heights: NDArray[np.float64]) -> Markup:
    """Draw a step function with heights in [0, 1]."""
    step, baseline = WIDTH / len(heights), HEIGHT - FOOT
    points = [f"M0,{baseline}"]
    for number, height in enumerate(heights):
        y = baseline - height * (baseline - 8)
        points.append(f"L{number * step:.1f},{y:.1f}L{(number + 1) * step:.1f},{y:.1f}")
    path = "".join([*points, f"L{WIDTH},{baseline}Z"])
    return Markup('<path class="series-{}" d="{}"/>').format(name, path)


def _mean(name: str, position: float) -> Markup:
    x = f"{min(max(position, 0.0), 1.0) * WIDTH:.1f}"
    line = Markup('<line class="mean series-{}" x1="{}" x2="{}" y1="4" y2="{}"/>')
    return line.format(name, x, x, HEIGHT - FOOT)


def _svg(shapes: Sequence[Markup], ticks: Sequence[tuple[float, str]], label: str) -> Markup:
    anchors = {0.0: "start", 1.0: "end"}
    labels = [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            f"{x * WIDTH:.0f}", HEIGHT - 6, anchors.get(x, "middle"), text
        )
        for x, text in ticks
    ]
    axis = Markup('<line class="axis" x1="0" x2="{}" y1="{}" y2="{}"/>').format(WIDTH, HEIGHT - FOOT, HEIGHT - FOOT)
    frame = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return frame.format(WIDTH, HEIGHT, label, Markup("").join([*shapes, axis, *labels]))
