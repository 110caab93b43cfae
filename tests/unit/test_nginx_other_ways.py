"""Other ways to a server in the same configuration: each is named, with the line to paste."""

import gc
import json
from pathlib import Path

import pytest

from tests.unit.test_nginx_unproved import TWO, registry

SITE = "server {{ listen 80; location / {{ proxy_pass http://app; }} {} }}"
OURS = [
    # what leads to 10.0.0.7:8080, and how it is written there
    ("upstream other { server 10.0.0.7:8080; }", "other"),
    ("upstream other { server 010.0.0.7:8080 backup; }", "other"),
    ("upstream other { server h; server [::ffff:10.0.0.7]:8080 weight=2; }", "other"),
    (SITE.format("location /x { proxy_pass http://10.0.0.7:8080; }"), "http://10.0.0.7:8080"),
    (SITE.format("location /x/ { proxy_pass HTTP://10.0.0.7:8080/a/; }"), "HTTP://10.0.0.7:8080/a/"),
    (SITE.format("location /x { grpc_pass grpcs://10.0.0.7:8080; }"), "grpcs://10.0.0.7:8080"),
    (SITE.format("location /x { fastcgi_pass 10.0.0.7:8080; }"), "10.0.0.7:8080"),
    (SITE.format("if ($x) { uwsgi_pass uwsgi://10.0.0.7:8080; }"), "uwsgi://10.0.0.7:8080"),
    (SITE.format('location /x { proxy_pass "http://[::ffff:10.0.0.7]:8080"; }'), "http://[::ffff:10.0.0.7]:8080"),
    (SITE.format("location /x { set $to 10.0.0.7:8080; proxy_pass http://$to; }"), "10.0.0.7:8080"),
    (SITE.format("set $to http://10.0.0.7:8080; proxy_pass $to;"), "http://10.0.0.7:8080"),
    ("map $uri $to { default 10.0.0.8:8080; ~^/a 10.0.0.7:8080; }", "10.0.0.7:8080"),
    ("map $http_upgrade $to { default other; websocket http://10.0.0.7:8080; }", "http://10.0.0.7:8080"),
    ("geo $to { default 10.0.0.8:80; 10.0.0.0/8 10.0.0.7:8080; }", "10.0.0.7:8080"),
    ("split_clients $remote_addr $to { 5% 10.0.0.7:8080; * app; }", "10.0.0.7:8080"),
    ("map $uri $to { include to.map; }", "10.0.0.7:8080"),
    (SITE.format("include more/*.conf;"), "http://10.0.0.7:8080/more"),
]  # fmt: skip
OTHERS = [
    "upstream other { server 10.0.0.7:8080 down; server 10.0.0.8:8080; }",
    "upstream other { server 10.0.0.7:8081; server 10.0.0.7; server 110.0.0.7:8080; }",
    SITE.format("location /x { proxy_pass http://10.0.0.7:8081; }"),
    SITE.format("location /x { proxy_pass https://10.0.0.7; }"),
    SITE.format("location /x { proxy_pass http://$host:8080; }"),
    SITE.format("location /x { proxy_set_header Host 10.0.0.7:8080; proxy_pass http://other; }"),
    SITE.format("location /x { return 301 http://10.0.0.7:8080; }"),
    "map $uri $to { 10.0.0.7:8080 app; }",
]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    (tmp_path / "to.map").write_text("/a 10.0.0.7:8080;")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.conf").write_text(
        "location /m { proxy_pass http://10.0.0.7:8080/more; }"
    )


@pytest.mark.parametrize(("text", "written"), OURS)
def test_what_leads_to_the_server(text: str, written: str, tmp_path: Path) -> None:
    """It is named with its place; with the line that the sentence has, it is not."""
    whole = f"http {{ upstream app {{ {TWO} }} {text} }}"
    (said,) = registry(tmp_path, whole).other_registrations()
    line = json.loads(said.partition("not_ours = ")[2])
    assert line == [written]
    assert f" ({tmp_path}" in said
    assert registry(tmp_path, whole, not_ours=line).other_registrations() == []
    both = json.loads(
        registry(tmp_path, whole, not_ours=["x"])
        .other_registrations()[0]
        .partition("not_ours = ")[2]
    )
    assert both == ["x", written]


@pytest.mark.parametrize("text", OTHERS)
def test_what_does_not(text: str, tmp_path: Path) -> None:
    """Other ports and hosts, what is down, what a client is told, and what is only a key."""
    whole = f"http {{ upstream app {{ {TWO} }} {text} }}"
    assert registry(tmp_path, whole).other_registrations() == []


def test_usual_ports_and_sockets(tmp_path: Path) -> None:
    """A port that is left out is that of the scheme; a path ends before the URI."""
    site = SITE.format("location /x { proxy_pass https://10.0.0.7/; }")
    whole = f"http {{ upstream app {{ server 10.0.0.7:443; }} {site} }}"
    assert len(registry(tmp_path, whole, server="10.0.0.7:443").other_registrations()) == 1
    site = SITE.format("location /x { proxy_pass http://unix:/run/app.sock:/uri/; }")
    whole = f"http {{ upstream app {{ server unix:/run/app.sock; }} {site} }}"
    assert len(registry(tmp_path, whole, server="unix:/run/app.sock").other_registrations()) == 1


def test_what_another_registry_of_the_instance_covers(tmp_path: Path) -> None:
    """An upstream that has a table of its own is none to be named, by either of the two."""
    whole = (
        f"http {{ upstream app {{ {TWO} }} upstream grpc {{ {TWO} }} upstream old {{ {TWO} }} }}"
    )
    app, grpc = registry(tmp_path, whole), registry(tmp_path, whole, upstream="grpc")
    for one in (app, grpc):
        (said,) = one.other_registrations()
        assert "http upstream old has 10.0.0.7:8080 too" in said
        assert (
            'add a registry with upstream = "old", if there is none yet, or set not_ours = ["old"]'
            in said
        )
    del grpc, one
    gc.collect()
    assert len(app.other_registrations()) == 2


def test_a_stream_that_leads_there(tmp_path: Path) -> None:
    """An upstream of the other kind is named with its context."""
    whole = f"stream {{ upstream tcp {{ {TWO} }} server {{ proxy_pass 10.0.0.7:8080; }} }}"
    whole += f"http {{ upstream app {{ {TWO} }} }}"
    upstream, straight = registry(tmp_path, whole).other_registrations()
    assert 'upstream = "tcp" and context = "stream", if' in upstream
    assert straight.startswith("proxy_pass 10.0.0.7:8080 (")


def test_a_name_that_leads_to_the_server(tmp_path: Path) -> None:
    """Host names are resolved here, as in the upstream itself."""
    site = SITE.format("location /x { proxy_pass http://localhost:8080; }")
    whole = f"http {{ upstream app {{ server 127.0.0.1:8080; }} {site} }}"
    (said,) = registry(tmp_path, whole, server="127.0.0.1:8080").other_registrations()
    assert said.startswith("proxy_pass http://localhost:8080 (")
