"""Made-up spellings, wrapped in each other: ours is noticed in all of them, another's in none."""

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deregister_agent.host.addresses import in_brackets
from deregister_agent.registries.etcd.key_finder import KeyFinder
from deregister_agent.registries.etcd.keys import KeyRange, KeyValue
from deregister_agent.registries.etcd.layouts import KeyLayout, WrittenAddress

Wrapper = Callable[[str], str]
Write = Callable[[str, int], str]
How = tuple[Write, list[Wrapper], Wrapper, list[Wrapper]]

HOSTS = st.one_of(
    st.integers(0x0B000000, 0xDF000000).map(lambda n: str(IPv4Address(n))),
    st.integers(0xFD << 120, (0xFE << 120) - 1).map(lambda n: str(IPv6Address(n | 0xA0B))),
    st.from_regex(r"[a-z]{3,8}-[a-z][0-9]{1,2}\.[a-z]{2,9}", fullmatch=True),
)
PORTS = st.integers(1024, 65535)
PARTS = st.from_regex(r"[a-z]{0,6}", fullmatch=True)

WRITTEN: list[Write] = [
    lambda host, port: f"{in_brackets(host)}:{port}",
    lambda host, port: f"http://{in_brackets(host)}:{port}/api?x=y",
    lambda host, port: f"tcp@{in_brackets(host)}:{port}",
    lambda host, port: f"host={host};port={port}",
    lambda host, port: f"tcp -h {host} -p {port}",
    lambda host, port: f"weight=1 addr={in_brackets(host)}:{port}, other",
    lambda host, port: json.dumps({"net": {"IP": host}, "ports": {"http": str(port)}}),
    lambda host, port: json.dumps([["a", host], ["b", port]]),
    lambda host, port: f"x:\n  host: {host}\n  port: {port}\n",
    lambda host, port: f"{host.replace('.', '-')}-{port}" if "." in host else f"<{host}> {port}",
    lambda host, port: f"\n{chr(len(host))}{host}\x10 {port}",
]
"""Forms that are read, and forms that are not."""

WRAPPERS: list[Wrapper] = [
    lambda text: quote(text, safe=""),
    lambda text: quote(quote(text, safe=""), safe=""),
    json.dumps,
    lambda text: json.dumps({"metadata": {"v": f"\n{text}"}}),
    lambda text: json.dumps(["x", {"a": [text]}]),
    lambda text: f"a, {text}\n",
]
BASE64: list[Wrapper] = [
    lambda text: b64encode(text.encode()).decode(),
    lambda text: urlsafe_b64encode(text.encode()).decode().rstrip("="),
    lambda text: "orders/" + b64encode(b"k:" + text.encode()).decode(),
    lambda text: text,
]
WRAPPED = st.tuples(
    st.sampled_from(WRITTEN),
    st.lists(st.sampled_from(WRAPPERS[2:]), max_size=2),  # escapes below base64 are not promised
    st.sampled_from(BASE64),
    st.lists(st.sampled_from(WRAPPERS[1:]), max_size=1),
)


def concerns(host: str, port: int, key: str, value: str) -> bool:
    finder = KeyFinder(
        KeyRange.below("shop/"), WrittenAddress.of(host, port), KeyLayout("", match="either")
    )
    return finder.concerns(KeyValue(f"shop/{key}".encode(), value.encode()))


def wrapped(how: How, host: str, port: int) -> str:
    write, inner, middle, outer = how
    text = write(host, port)
    for wrap in (*inner, middle, *outer):
        text = wrap(text)
    return str(text)


@settings(deadline=None, max_examples=60)
@given(host=HOSTS, port=PORTS, how=WRAPPED, key=PARTS, in_key=st.booleans())
def test_ours_is_noticed(host: str, port: int, how: How, key: str, *, in_key: bool) -> None:
    """Whatever it is written as and wrapped in, in the key or in the value."""
    text = wrapped(how, host, port)
    assert concerns(host, port, text, "up") if in_key else concerns(host, port, key, text)


@settings(deadline=None, max_examples=60)
@given(
    host=HOSTS, other=HOSTS, port=PORTS, how=WRAPPED, near=st.sampled_from(["{}0", "{}1", "1{}"])
)
def test_another_host_is_not(host: str, other: str, port: int, how: How, near: str) -> None:
    """Not even one that begins or ends like ours."""
    assume(host not in other)
    assert not concerns(host, port, "x", wrapped(how, other, port))
    if "." in host and host[-1].isdecimal():
        assert not concerns(host, port, "x", wrapped(how, near.format(host), port))


@settings(deadline=None, max_examples=60)
@given(host=HOSTS, port=PORTS, other=PORTS, how=WRAPPED.filter(lambda how: how[0] in WRITTEN[:3]))
def test_a_twin_on_the_same_host_is_not(host: str, port: int, other: int, how: How) -> None:
    """Where its port stands right behind the host; else nobody can tell, and it is refused."""
    assume(str(port) not in host and port != other)
    assert not concerns(host, port, "x", wrapped(how, host, other))
