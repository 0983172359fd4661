"""A bar chart of an outcome, written as SVG by hand."""

from __future__ import annotations

from html import escape

from tests.benchmarks.cases import Results
from tests.benchmarks.contenders import DELIVERING
from tests.benchmarks.outcome import Outcome, cost_at, median
from tests.benchmarks.publishing import PUBLISHERS

_WIDTH, _LABEL, _BAR, _ROW = 840, 300, 440, 22
_OURS, _OTHERS = "#2a7f62", "#9aa5b1"

#: Label, figure, whether it is this package's.
Bar = tuple[str, float, bool]


def draw(outcome: Outcome) -> str:
    """Return the picture."""
    charts: list[tuple[str, list[Bar]]] = []
    if outcome.fan_out:
        count = 500 if 500 in outcome.fan_out else max(outcome.fan_out)
        title = f"Fan-out, {count:,} sockets: server CPU per delivery, µs"
        charts.append((title, _delivery_bars(outcome.fan_out[count])))
    for count, results in outcome.users.items():
        title = f"{count:,} different users: server CPU per delivery, µs"
        charts.append((title, _delivery_bars(results)))
    for recipients in sorted({key[0] for key in outcome.published}):
        title = f"Publishing to {recipients:,} per call, not stored: ms"
        charts.append((title, _publish_bars(outcome, recipients)))
    parts, top = [], 16
    for title, bars in charts:
        parts.append(f'<text x="16" y="{top + 14}" class="title">{escape(title)}</text>')
        top += 26
        longest = max((figure for _, figure, _ in bars), default=1) or 1
        for label, figure, ours in bars:
            width = max(1.0, _BAR * figure / longest)
            colour = _OURS if ours else _OTHERS
            parts.append(
                f'<text x="{_LABEL - 8}" y="{top + 14}" text-anchor="end">{escape(label)}</text>'
                f'<rect x="{_LABEL}" y="{top + 3}" width="{width:.1f}" height="{_ROW - 6}" '
                f'fill="{colour}"/>'
                f'<text x="{_LABEL + width + 6:.1f}" y="{top + 14}">{_number(figure)}</text>'
            )
            top += _ROW
        top += 18
    style = "text{font:12px sans-serif;fill:#222}.title{font-weight:bold;font-size:14px}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" '
        f'viewBox="0 0 {_WIDTH} {top}"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _number(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def _delivery_bars(results: Results) -> list[Bar]:
    bars = []
    for contender in DELIVERING:
        figure = median(results.get(contender.key), cost_at(results), "server_cpu")
        if figure is not None:
            bars.append((contender.label, figure * 1e6, contender.feed == "package"))
    return bars


def _publish_bars(outcome: Outcome, recipients: int) -> list[Bar]:
    bars = []
    for publisher in PUBLISHERS:
        results = outcome.published.get((recipients, False), {})
        figure = median(results.get(publisher.key), "median")
        if figure is not None:
            bars.append((publisher.label, figure * 1e3, publisher.key == "package"))
    return bars
