"""
Which metrics that may be absent a page does not show: perhaps misspelt, and then idle for ever.

A labelled metric of prometheus_client that nothing has used yet has no sample, but its TYPE line
(prometheus_client/exposition.py), so its name is known to be right.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from deregister_agent.probes.prometheus.samples import MetricsPage, Selector
from deregister_agent.probes.prometheus.terms import Term, metrics_in

ENDINGS = ("_total", "_count")
"""What a sample's name has and the TYPE line of its metric may not have."""


def absent_names(
    page: MetricsPage, terms: Iterable[Term], labels: Mapping[str, str]
) -> Iterator[str]:
    """
    Yield a sentence about each metric with ``absent = "zero"`` that *page* has no sample of.

    Of several names of one metric it is enough that the page shows one.
    """
    for term in terms:
        if term.absent == "zero":
            for names in (metrics_in(term.metric), metrics_in(term.minus)):
                selectors = [Selector.of(text).also(labels) for text in names]
                if selectors and not any(_is_shown(each, page) for each in selectors):
                    yield _sentence(selectors, page)


def _is_shown(selector: Selector, page: MetricsPage) -> bool:
    if any(selector.fits(sample) for sample in page.samples):
        return True
    unused = all(sample.name != selector.name for sample in page.samples)
    return unused and any(name in page.kinds for name in _declared(selector.name))


def _declared(name: str) -> Iterator[str]:
    yield name
    yield from (name.removesuffix(ending) for ending in ENDINGS)


def _sentence(selectors: list[Selector], page: MetricsPage) -> str:
    shown = " or ".join(selector.text for selector in selectors)
    what = 'absent = "zero" takes that for nothing in hand, also where it is misspelt'
    if others := [s for s in page.samples if any(s.name == each.name for each in selectors)]:
        return f"{shown} fits no sample on the page, which has {others[0]}; {what}"
    near = [
        found for each in selectors for found in get_close_matches(each.name, list(page.kinds), n=1)
    ]
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"{shown} is not on the page; {what}{meant}"
