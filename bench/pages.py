"""The plots of the experiment: one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from html import escape

from bench.deploy import Result, Took

WIDTH, HEIGHT, LEFT = 900, 120, 40
BIN = 0.5  # seconds that share a bar
COLOURS = ("#2b6cb0", "#b7791f", "#2f855a")

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Rolling deploys: what is lost</title>
<style>
body {{ font: 15px/1.4 sans-serif; max-width: 60em; margin: 2em auto; color: #1a202c }}
h2 {{ font-size: 1.05em; margin: 2em 0 0.2em }} p {{ margin: 0.2em 0 }}
text {{ font: 11px sans-serif; fill: #4a5568 }}
</style>
<h1>Rolling deploys under load</h1>
<p>Each shaded band is one instance being taken away; each line is what its process had in hand.
Red bars are requests that were lost, by the time at which they were sent.</p>
{plots}
</html>
"""


def page(results: Mapping[str, Result]) -> str:
    """Return the whole page, with a plot for each result."""
    return _PAGE.format(plots="\n".join(_plot(result) for result in results.values()))


def _plot(result: Result) -> str:
    end = max((one.at for one in result.sent), default=result.began) - result.began + 1.0
    width = (WIDTH - LEFT) / end
    top = max([count for one in result.replaced for _, count in one.in_hand] or [1])
    shapes = [_axis(end, width, top)]
    for number, one in enumerate(result.replaced):
        shapes.append(_band(one, result.began, width))
        shapes.append(_curve(one, result.began, width, top, COLOURS[number % len(COLOURS)]))
    shapes += _losses([at - result.began for at in result.lost_at], width)
    way = result.way
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(result.lost.items()))
    said = f"{len(result.sent)} sent, {result.lost_in_all} lost" + (f": {causes}" if causes else "")
    return (
        f"<h2>{escape(way.what)}, through {way.front}</h2><p>{escape(said)}; "
        f"{result.seconds:.1f} s per instance</p>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 20}" width="100%">{"".join(shapes)}</svg>'
    )


def _axis(end: float, width: float, top: int) -> str:
    step = 5 if end < 100 else 20
    marks = "".join(
        f'<text x="{LEFT + second * width:.1f}" y="{HEIGHT + 14}">{second} s</text>'
        for second in range(0, int(end), step)
    )
    line = f'<path d="M{LEFT} 0V{HEIGHT}H{WIDTH}" fill="none" stroke="#a0aec0"/>'
    return f'{line}<text x="0" y="12">{top}</text>{marks}'


def _band(one: Took, began: float, width: float) -> str:
    left, wide = LEFT + (one.began - began) * width, max(1.0, one.seconds * width)
    return f'<rect x="{left:.1f}" y="0" width="{wide:.1f}" height="{HEIGHT}" fill="#edf2f7"/>'


def _curve(one: Took, began: float, width: float, top: int, colour: str) -> str:
    """Draw what the process had in hand, as steps."""
    points: list[str] = []
    for at, count in one.in_hand:
        x, y = LEFT + (at - began) * width, HEIGHT - count / top * (HEIGHT - 10)
        points.append(f"{'H' if points else f'M{x:.1f} {y:.1f}H'}{x:.1f}V{y:.1f}")
    return f'<path d="{"".join(points)}" fill="none" stroke="{colour}"/>' if points else ""


def _losses(lost: Sequence[float], width: float) -> list[str]:
    """Draw a bar for each moment at which requests were lost, as high as they were many."""
    bins: dict[int, int] = {}
    for at in lost:
        bins[int(at / BIN)] = bins.get(int(at / BIN), 0) + 1
    return [
        f'<rect x="{LEFT + number * BIN * width:.1f}" y="{HEIGHT - min(HEIGHT, 6 * count)}" '
        f'width="{max(2.0, BIN * width):.1f}" height="{min(HEIGHT, 6 * count)}" fill="#c53030">'
        f"<title>{count} lost</title></rect>"
        for number, count in sorted(bins.items())
    ]
