"""Texts that speak of an address without being one."""

import pytest

from deregister_agent.host.mentions import (
    is_any_name,
    is_host,
    names_address,
    names_port_alone,
    ports_beside,
    without_port,
)


@pytest.mark.parametrize("text", ["10.0.0.7", "[fd00::7]", "fd00::7", "web-1", "a_b.c.", "köln.de"])
def test_what_is_a_host(text: str) -> None:
    """An IP address, or a name."""
    assert is_host(text)


@pytest.mark.parametrize(
    "text",
    ["", "tcp@10.0.0.7", "addr=10.0.0.7", "orders-10.0.0.7", "a,b", "10.0.0.7/x", "-a", "a b"],
)
def test_what_has_more_in_it(text: str) -> None:
    """A scheme, a key, a path, a second host: whoever read it as a host would miss the host."""
    assert not is_host(text)


@pytest.mark.parametrize("text", ["localhost", "web-1", "127.0.1.1", "::1", "0.0.0.0", "[::]"])
def test_what_may_be_this_machine(text: str) -> None:
    """Any name, and what means each machine to itself."""
    assert is_any_name(text)
    assert not is_any_name("10.0.0.7")


@pytest.mark.parametrize(
    ("text", "host", "ports"),
    [
        ("tcp@10.0.0.7:8972", "10.0.0.7", {8972}),
        ("10.0.0.7_80, 10.0.0.7:81 and 10.0.0.7", "10.0.0.7", {80, 81, None}),
        ("[FD00:0:0:0:0:0:0:7]:80", "fd00::7", {80}),
        ("x%3A%2F%2F10.0.0.7%3A20880", "10.0.0.7", {20880}),
        ("110.0.0.7:80 10.0.0.70:80 1.10.0.0.7:80 10.0.0.7.example:80", "10.0.0.7", set()),
        ("web-1:80 my.web-1:81", "web-1", {80}),
        (r'{"a": "\n10.0.0.7:80\u002f"}', "10.0.0.7", {80}),
        ("orders10.0.0.7:80 orders.10.0.0.7:81", "10.0.0.7", {80, 81}),
        ("10.0.0.7.8080 and v1.10.0.0.7:80 10.0.0.7.443", "10.0.0.7", {None}),
        ("[::ffff:10.0.0.7]:80 [::ffff:a00:7]:81 [::ffff:0a00:0007]:82", "10.0.0.7", {80, 81, 82}),
        ("fd00--7 fd00_0_0_0_0_0_0_7", "fd00::7", {None}),
        ("web-1-internal:80 x-web-1-internal:81", "web-1.internal", {80, 81}),
        ("\x0d10.0.0.7:80800 \x08\x0810.0.0.70", "10.0.0.7", {80800, None}),
        ("a/MTAuMC4wLjc6ODA4MA==", "10.0.0.7", {8080}),  # base64 of 10.0.0.7:8080
        ("MTEwLjAuMC43OjgwODA= MTAuMC4wLjcwOjgwODA=", "10.0.0.7", set()),  # of 110..., of ...70
    ],
)
def test_the_ports_beside_a_host(text: str, host: str, ports: set[int | None]) -> None:
    """Of each mention, the port right behind it; a part of another host is no mention."""
    assert ports_beside(text, host) == ports


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("tcp@10.0.0.7:8972, http://[::ffff:10.0.0.7]:80/", False),
        ("10.0.0.7:80, and 10.0.0.7", True),
        ("10.0.0.7_8080", True),
        ("\x0d10.0.0.7:8080", False),
        ("\x08\x0d10.0.0.7:8080", True),
        ("nothing", False),
    ],
)
def test_a_mention_without_a_port(text: str, *, without: bool) -> None:
    """Only a colon makes a port; in what is no text none is sure."""
    assert without_port(text, "10.0.0.7") is without


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ('{"port": 8080}', True),
        (":8080/x", True),
        ('"8080"', True),
        ("8080", True),
        ("orders-8080", False),
        ("v8080", False),
        ("1.8080 8080.5 80801", False),
    ],
)
def test_a_port_that_is_no_part_of_a_name(text: str, *, alone: bool) -> None:
    """A number in a name, or of a larger number, is none."""
    assert names_port_alone(text, 8080) is alone


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("tcp -h 10.0.0.7 -p 8080", True),
        ("ip-10-0-0-7-8080", True),
        ("10.0.0.7:80800", False),
        ("10.0.0.8:8080", False),
    ],
)
def test_both_in_one_text(text: str, *, named: bool) -> None:
    """Host and port, wherever in it they stand."""
    assert names_address(text, "10.0.0.7", 8080) is named
