"""
Mistakes between the keys of a configuration, which no single key shows.

The checks read the file before it is validated, so that their mistakes are listed
together with all others; they pass over values of a wrong type, because the
validation has a sentence for those.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from deregister_agent.config.backends import ByKind
from deregister_agent.host.json_values import is_number
from deregister_agent.model import Announcement, OnDeadline, Policy, RestoreWhen

_Raw = Mapping[str, Any]


def cross_checked(data: _Raw) -> Iterator[str]:
    """Yield each mistake between keys, key first."""
    names: dict[object, int] = {}
    for at, instance in _tables(data, "instance"):
        key, name = f"instance[{at}]", instance.get("name")
        if isinstance(name, str) and (first := names.setdefault(name, at)) != at:
            yield f"{key}.name: {name!r} is the name of instance[{first}] already"
        for mistake in _within(instance):
            yield f"{key}.{mistake}"


def _within(instance: _Raw) -> Iterator[str]:
    for port in ("registry", "probe", "notifier"):
        yield from _same_label(instance, port)
    yield from _policy(instance)


def _policy(instance: _Raw) -> Iterator[str]:
    if instance.get("restore") == RestoreWhen.WHEN_READY and not _tables(instance, "ready"):
        yield "restore: 'when-ready' needs a check that tells so; add one [[instance.ready]]"
    if instance.get("on_deadline") == OnDeadline.KILL and not _announces_forced(instance):
        yield (
            "on_deadline: 'kill' needs somebody who kills; "
            "add one [[instance.notifier]] that announces 'forced'"
        )
    quiet, settle, deadline = (
        _number(instance.get(key), getattr(Policy(), key))
        for key in ("quiet", "settle", "deadline")
    )
    late = max(_lags(instance), default=0.0)
    if 0 < deadline <= quiet + settle + late:
        parts = "settle, quiet and the probe's lag" if late else "settle and quiet"
        yield (
            f"deadline: {deadline:g} is not longer than {parts} together "
            f"({quiet + settle + late:g}), so every drain would expire"
        )


def _lags(instance: _Raw) -> Iterator[float]:
    """Yield by how many seconds each probe's news may be late: an idle app must wait for them."""
    for _, probe in _tables(instance, "probe"):
        options = ByKind("probes").options(probe)
        field = options.model_fields.get("lag") if options else None
        if field is not None:
            yield _number(probe.get("lag"), field.default)


def _same_label(instance: _Raw, port: str) -> Iterator[str]:
    labels: dict[str, int] = {}
    for at, table in _tables(instance, port):
        label = table.get("name") or table.get("kind")
        if isinstance(label, str) and (first := labels.setdefault(label, at)) != at:
            yield f"{port}[{at}]: called {label!r} like {port}[{first}]; give one a `name`"


def _announces_forced(instance: _Raw) -> bool:
    return any(
        Announcement.FORCED in _announces(table) for _, table in _tables(instance, "notifier")
    )


def _announces(notifier: _Raw) -> list[Any]:
    if isinstance(told := notifier.get("announces"), list):
        return told
    options = ByKind("notifiers").options(notifier)
    if options is None:  # its kind is the mistake
        return list(Announcement)
    return list(options.model_fields["announces"].default)


def _tables(data: _Raw, key: str) -> list[tuple[int, _Raw]]:
    found = data.get(key)
    if not isinstance(found, list):
        return []
    return [(at, table) for at, table in enumerate(found) if isinstance(table, dict)]


def _number(value: object, otherwise: float) -> float:
    return value if is_number(value) and value >= 0 else otherwise
