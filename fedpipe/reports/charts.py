"""Line charts as places in an SVG, drawn by the templates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CHART_WIDTH, CHART_HEIGHT = 320.0, 170.0
_MOST_TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A labelled place on an axis, in the units of the drawing."""

    place: float
    text: str


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """A drawn line over rounds, and a dashed one beside it; `label` says it all in words."""

    label: str
    line: str
    dashed: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    y_title: str


def line_chart(
    label: str,
    y_title: str,
    rounds: Sequence[int],
    values: Sequence[float],
    dashed: Sequence[tuple[float, float]],
) -> LineChart:
    """Returns a chart of `values` over `rounds` from 0, with `dashed` (round, value) points beside it."""
    last = max(rounds)
    x_ticks = [tick for tick in nice_ticks(float(last)) if tick == int(tick)]
    y_ticks = nice_ticks(max([*values, *(value for _, value in dashed), 1e-12]))
    top = y_ticks[-1]

    def place(x: float, y: float) -> str:
        return f"{CHART_WIDTH * x / last:.1f},{CHART_HEIGHT * (1 - y / top):.1f}"

    return LineChart(
        label=label,
        line=" ".join(place(x, y) for x, y in zip(rounds, values, strict=True)),
        dashed=" ".join(place(x, y) for x, y in dashed),
        x_ticks=tuple(
            Tick(place=round(CHART_WIDTH * x / last, 1), text=f"{x:g}") for x in x_ticks if x <= last
        ),
        y_ticks=tuple(Tick(place=round(CHART_HEIGHT * (1 - y / top), 1), text=f"{y:g}") for y in y_ticks),
        y_title=y_title,
    )


def nice_ticks(end: float) -> list[float]:
    """Returns round numbers from 0 to the first that is not below `end` > 0, at most six.

    >>> nice_ticks(120.0), nice_ticks(0.33)
    ([0.0, 25.0, 50.0, 75.0, 100.0, 125.0], [0.0, 0.1, 0.2, 0.3, 0.4])
    """
    rough = end / _MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= rough * (1 - 1e-9))
    return [float(f"{step * index:.6g}") for index in range(math.ceil(end / step - 1e-9) + 1)]
