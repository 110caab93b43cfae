"""The plots of the experiment: one HTML file that needs nothing else."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from bench.styles import HEAD, LEGEND
from compose.places import NAMES
from compose.rollout import Result, Took

WIDTH, LEFT, RIGHT = 960, 56, 10
TOP = 18  # height of the line with the names of the instances
HANDS, LOSSES, GAP, AXIS = 120, 46, 14, 34  # heights of the two panels, and between and below
HEIGHT = TOP + HANDS + GAP + LOSSES + AXIS
BIN = 0.5  # seconds that share a bar
TICKS = (1, 2, 5, 10, 20, 30, 60, 120, 300)  # seconds between two marks of the axis
MOST_TICKS = 14
WIDE = 52  # a band that is narrower has no name
SHOWN = {"settling": "withdrawn", "drained": "drained", "expired": "expired"}
TAIL = 3.0  # seconds of the load that are shown after the last replacement


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the plot with an axis of its own: from zero to *most*, upwards from *bottom*."""

    began: float
    end: float  # seconds after that
    bottom: float
    height: float
    most: float

    def x(self, at: float) -> float:
        """Return where a monotonic time is."""
        share = min(max(at - self.began, 0.0), self.end) / self.end
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, count: float) -> float:
        """Return where a count is."""
        return self.bottom - min(count, self.most) / self.most * self.height

    def frame(self, title: str) -> str:
        """Return its axis, with its unit."""
        middle = self.bottom - self.height / 2
        marks = "".join(
            f'<path class="grid" d="M{LEFT} {self.y(count):.1f}H{WIDTH - RIGHT}"/>'
            f'<text class="right" x="{LEFT - 6}" y="{self.y(count) + 4:.1f}">{count:g}</text>'
            for count in _counts(self.most)
        )
        turned = f'transform="translate(12 {middle:.0f}) rotate(-90)"'
        return f'{marks}<text class="middle" {turned}>{title}</text>'


def page(results: Mapping[str, Result]) -> str:
    """Return the whole page, with a table and a plot for each result."""
    rows = "".join(_row(name, result) for name, result in results.items())
    plots = "".join(_section(name, result) for name, result in results.items())
    return HEAD.format(rows=rows, legend=LEGEND, plots=plots)


def _row(name: str, result: Result) -> str:
    beyond = result.overheads or [0.0]
    cells = [
        f'<td><a href="#{name}">{escape(result.way.what)}</a></td><td>{result.way.front}</td>',
        f"<td class=n>{len(result.sent)}</td>",
        f'<td class="n {"bad" if result.lost_in_all else "good"}">{result.lost_in_all}</td>',
        f"<td class=n>{result.seconds:.1f}</td>",
        f"<td class=n>{sum(beyond) / len(beyond):+.2f}</td><td class=n>{max(beyond):+.2f}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>\n"


def _section(name: str, result: Result) -> str:
    causes = [f"{count} {cause}" for cause, count in sorted(result.lost.items()) if count]
    said = [f"{len(result.sent)} requests, {result.lost_in_all} lost", *causes, *result.notes]
    if result.begun_twice:
        said.append(f"{result.begun_twice} begun twice")
    return (
        f'<section id="{name}"><h2>{escape(result.way.what)}, through {result.way.front}</h2>'
        f"<p>{escape('; '.join(said))}.</p>{_plot(result)}</section>\n"
    )


def _plot(result: Result) -> str:
    end = max((one.ended for one in result.replaced), default=result.began) + TAIL - result.began
    most = max((count for one in result.replaced for _, count in one.in_hand), default=1)
    losses = _binned([at - result.began for at in result.lost_at])
    hands = Panel(result.began, end, TOP + HANDS, HANDS, _rounded(most))
    bottom = TOP + HANDS + GAP + LOSSES
    lost = Panel(result.began, end, bottom, LOSSES, _rounded(max(losses.values(), default=1)))
    shapes = [
        *(_band(one, hands, lost) for one in result.replaced),
        hands.frame("in hand"),
        lost.frame("lost"),
        "" if losses else _none(lost),
        *(_curve(one, hands) for one in result.replaced),
        *(_bar(number, count, lost) for number, count in sorted(losses.items())),
        *(_mark(one, hands, lost) for one in result.replaced),
        *_times(lost),
    ]
    label = escape(f"{result.way.what}, through {result.way.front}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(shapes)}</svg>"
    )


def _band(one: Took, hands: Panel, lost: Panel) -> str:
    """Shade the time in which an instance is taken away."""
    left, right = hands.x(one.began), hands.x(one.ended)
    wide = max(1.5, right - left)
    name = f'<text class="{_colour(one)}" x="{left + 2:.1f}" y="12">{one.name}</text>'
    return (
        f'<rect class="band" x="{left:.1f}" y="{TOP}" width="{wide:.1f}" '
        f'height="{lost.bottom - TOP:.1f}"><title>{one.name}: {one.seconds:.2f} s, '
        f"{one.overhead:+.2f} s beyond the ideal</title></rect>{name if wide > WIDE else ''}"
    )


def _curve(one: Took, panel: Panel) -> str:
    """Draw what the process had in hand, as steps, until it was dead."""
    points = [(at, count) for at, count in one.in_hand if at <= one.ended]
    if not points:
        return ""
    steps = [f"M{panel.x(points[0][0]):.1f} {panel.y(points[0][1]):.1f}"]
    steps += [f"H{panel.x(at):.1f}V{panel.y(count):.1f}" for at, count in points[1:]]
    return f'<path class="hand {_colour(one)}" d="{"".join(steps)}H{panel.x(one.ended):.1f}"/>'


def _colour(one: Took) -> str:
    """Return the class of an instance: the same for each process of it."""
    return f"c{NAMES.index(one.name) % 3}"


def _mark(one: Took, hands: Panel, lost: Panel) -> str:
    """Mark when it was withdrawn and drained, and when it was dead."""
    lines = [
        f'<path class="{kind}" d="M{hands.x(at):.1f} {TOP}V{lost.bottom:.1f}">'
        f"<title>{one.name} {SHOWN[kind]} after {at - one.began:.2f} s</title></path>"
        for at, kind in one.marks
        if kind in SHOWN
    ]
    killed = hands.x(one.ended)
    dead = f'<path class="dead" d="M{killed:.1f} {TOP}V{lost.bottom:.1f}"/>'
    return "".join([dead, *lines])


def _bar(number: int, count: int, panel: Panel) -> str:
    left, right = (panel.x(panel.began + BIN * (number + n)) for n in (0, 1))
    top = panel.y(count)
    return (
        f'<rect class="lost" x="{left:.1f}" y="{top:.1f}" width="{max(2.0, right - left):.1f}" '
        f'height="{panel.bottom - top:.1f}"><title>{count} lost of those sent after '
        f"{number * BIN:g} s</title></rect>"
    )


def _none(panel: Panel) -> str:
    x, y = (LEFT + WIDTH - RIGHT) / 2, panel.bottom - panel.height / 2 + 4
    return f'<text class="middle" x="{x}" y="{y}">none</text>'


def _times(panel: Panel) -> Iterator[str]:
    """Give the marks of the axis that both panels share, and its unit."""
    step = next((one for one in TICKS if panel.end / one <= MOST_TICKS), TICKS[-1])
    for second in range(0, int(panel.end) + 1, step):
        x = panel.x(panel.began + second)
        yield f'<path class="tick" d="M{x:.1f} {panel.bottom}v4"/>'
        yield f'<text class="middle" x="{x:.1f}" y="{panel.bottom + 16}">{second}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="middle" x="{middle}" y="{panel.bottom + 31}">seconds of the load</text>'


def _binned(times: Sequence[float]) -> Mapping[int, int]:
    bins: dict[int, int] = {}
    for at in times:
        bins[int(at / BIN)] = bins.get(int(at / BIN), 0) + 1
    return bins


def _rounded(most: float) -> float:
    """Return the next count that makes a good axis."""
    size = 10 ** math.floor(math.log10(max(1.0, most)))
    return float(next(n * size for n in (1, 2, 4, 6, 8, 10) if n * size >= most))


def _counts(most: float) -> Sequence[float]:
    return (0, most / 2, most) if most > 1 else (0, most)
