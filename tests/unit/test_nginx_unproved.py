"""
What is not known to obey ``down`` is refused by its name, and only where it can matter.

The directives are those of modules that cannot be had here, in the spellings of their
pages and of people's configurations: Tengine (session_sticky, dyups), Angie, Nginx Plus,
nginx_upstream_check_module, nginx-upstream-jvm-route, nginx-upsync-module,
ngx_http_upstream_consistent_hash, nginx-sticky-module-ng, nginx-upstream-jdomain,
ngx_dynamic_upstream, lua-resty-upstream-healthcheck, ngx_mruby, njs.
"""

import json
import os
from pathlib import Path

import pytest

from deregister_agent.errors import UnrecognisedError
from deregister_agent.model import Instance
from deregister_agent.registries.nginx.options import Options
from deregister_agent.registries.nginx.registry import NginxUpstream, build

TWO = "server 10.0.0.7:8080; server 10.0.0.8:8080;"


def registry(folder: Path, text: str, **options: object) -> NginxUpstream:
    """Return the registry of 10.0.0.7:8080 in upstream app of a configuration."""
    main = folder / "nginx.conf"
    main.write_text(f"pid /run/nginx.pid;\n{text}\n")
    table = {"kind": "nginx", "upstream": "app", "config": main} | options
    made = Options.model_validate(table, strict=False)
    return build(made, Instance("app-1", "app", "10.0.0.7", 8080))


def refused(folder: Path, text: str, **options: object) -> list[str]:
    """Return what is refused of a configuration, from the line to paste; nothing if it is not."""
    one = registry(folder, text, **options)
    said = ""
    try:
        assert one.snapshot() == {"down": [False]}
    except UnrecognisedError as e:
        said = str(e)
    _, _, line = said.partition("set obeys = ")
    return list(json.loads(line)) if said else []


IN_THE_UPSTREAM = [
    ("session_sticky cookie=uid fallback=on path=/ mode=insert option=indirect;", "session_sticky"),
    ("session_sticky;", "session_sticky"),
    ("consistent_hash $request_uri;", "consistent_hash"),
    ("jvm_route $cookie_JSESSIONID|sessionid reverse;", "jvm_route"),
    ("sticky;", "sticky"),
    ("sticky name=route domain=.foo.bar path=/ expires=1h hash=md5 secure;", "sticky"),
    ("hash $request_uri; hash_again 10;", "hash_again"),
    ("hash_method crc32;", "hash_method"),
    ("vnswrr;", "vnswrr"),
    ("jdomain app.internal;", "jdomain"),
    ("dynamic_resolve fallback=stale fail_timeout=30s;", "dynamic_resolve"),
    ("upsync 127.0.0.1:8500/v1/kv/upstreams/app upsync_type=consul;", "upsync"),
    ("upsync_lb least_conn;", "upsync_lb"),
    ("state /var/lib/nginx/state/app.conf;", "state"),
    ("ewma;", "ewma"),
    ("random two least_time=last_byte;", "random"),
    ("ntlm;", "ntlm"),
    ("feedback $feedback_value factor=80;", "feedback"),
    ("balancer_by_lua_file /etc/nginx/lua/balancer.lua;", "balancer_by_lua_file"),
    ('balancer_by_lua_block { local b = require("ngx.balancer") }', "balancer_by_lua_block"),
    ("balancer_by_something { choose any; }", "balancer_by_something"),
    ("zookeeper_sync_filter @b;", "zookeeper_sync_filter"),
    ("consul 127.0.0.1:8500 service=app;", "consul"),
]  # fmt: skip


@pytest.mark.parametrize(("directive", "name"), IN_THE_UPSTREAM)
def test_in_the_upstream(directive: str, name: str, tmp_path: Path) -> None:
    """Whatever is not known is refused, before the servers, after them, and in another file."""
    for text in (f"{directive} {TWO}", f"{TWO}\n{directive}"):
        assert refused(tmp_path, f"http {{ upstream app {{ {text} }} }}") == [name]
        assert refused(tmp_path, f"stream {{ upstream app {{ {text} }} }}", context="stream") == [
            name
        ]
    (tmp_path / "own.conf").write_text(directive)
    included = f"http {{ upstream app {{ {TWO} include own.*; }} }}"
    assert refused(tmp_path, included) == [name]
    assert refused(tmp_path, included, obeys=[name]) == []
    other = f"http {{ upstream app {{ {TWO} }} upstream other {{ {directive} server h; }} }}"
    assert refused(tmp_path, other) == []


def test_the_sentence_names_place_and_line(tmp_path: Path) -> None:
    """File and line of each, and the line to paste with what is vouched for already."""
    check = "check interval=3000 rise=2 fall=5 timeout=1000 type=http;"
    send = 'check_http_send "HEAD / HTTP/1.0\\r\\n\\r\\n";'
    text = f"http {{ upstream app {{ {TWO}\n ip_hash;\n{check}\n{send}\n jvm_route $x;\n}} }}"
    with pytest.raises(UnrecognisedError) as caught:
        registry(tmp_path, text, obeys=["check", "vnswrr"]).look()
    file = tmp_path / "nginx.conf"
    assert f"known of check_http_send ({file}:5); jvm_route ({file}:6);" in str(caught.value)
    assert str(caught.value).endswith(
        'set obeys = ["check", "vnswrr", "check_http_send", "jvm_route"]'
    )
    for call in ("snapshot", "withdraw", "lists", "others", "stragglers"):
        with pytest.raises(UnrecognisedError):
            getattr(registry(tmp_path, text), call)()
    assert any("check_http_send" in said for said in registry(tmp_path, text).advice())


API = "server {{ listen 8081; location / {{ allow 127.0.0.1; {} }} }}"
ANYWHERE = [
    ("dyups_interface;", "dyups_interface"),
    ("upstream_conf;", "upstream_conf"),
    ("dynamic_upstream;", "dynamic_upstream"),
    ("upstream_manager;", "upstream_manager"),
    ("content_by_lua 'local u = require \"ngx.upstream\" u.set_peer_down(n)';", "content_by_lua"),
    (
        "content_by_lua_block { local ups = require 'ngx.upstream'\n ups.set_peer_down(n, 0) }",
        "content_by_lua_block",
    ),
    (
        "access_by_lua_block { require('x').update('app', [[server 127.0.0.1:8088;]]) }",
        "access_by_lua_block",
    ),
    ("log_by_lua_block { local f = package.loaded['ngx.upstream']; f() }", "log_by_lua_block"),
]


@pytest.mark.parametrize(("directive", "name"), ANYWHERE)
def test_what_changes_servers_of_any_upstream(directive: str, name: str, tmp_path: Path) -> None:
    """It is refused wherever it stands: an API's server block leads to no upstream."""
    text = f"upstream app {{ {TWO} }} {API.format(directive)}"
    assert refused(tmp_path, f"http {{ {text} }}") == [name]
    (tmp_path / "api.conf").write_text(directive)
    assert refused(tmp_path, f"http {{ {text.replace(directive, 'include api.conf;')} }}") == [name]
    assert refused(tmp_path, f"http {{ {text} }}", obeys=[name]) == []


@pytest.mark.parametrize(
    ("directive", "zone", "is_refused"),
    [
        ("api write=on;", "zone app 64k;", True),
        ("api write=on;", "", False),
        ("api;", "zone app 64k;", False),
        ("api write=off;", "zone app 64k;", False),
        ("api /config/http/upstreams/;", "zone app 1m;", True),
        ("api /status/;", "zone app 1m;", False),
    ],
)
def test_an_api_that_needs_shared_memory(
    directive: str, zone: str, is_refused: bool, tmp_path: Path
) -> None:
    """That of Nginx Plus and Angie writes when told to, and only to an upstream with a zone."""
    text = f"http {{ upstream app {{ {zone} {TWO} }} {API.format(directive)} }}"
    assert refused(tmp_path, text) == (["api"] if is_refused else [])


CODE = [
    ("access_by_lua_file /etc/nginx/lua/auth.lua;", "access_by_lua_file"),
    ("access_by_lua_block { require('kong').access() }", "access_by_lua_block"),
    ("rewrite_by_lua 'local x = require \"split\"';", "rewrite_by_lua"),
    ("set_by_lua_block $x { return require('x').y }", "set_by_lua_block"),
    ("header_filter_by_lua_block { dofile('/x.lua') }", "header_filter_by_lua_block"),
    ("log_by_lua_block { _G['re' .. 'quire']('ngx.' .. 'upstr' .. 'eam') }", "log_by_lua_block"),
    ("js_access main.check;", "js_access"),
    ("js_content main.answer;", "js_content"),
    ("perl 'sub { return OK; }';", "perl"),
    ("mruby_access_handler /etc/nginx/mruby/access.rb cache;", "mruby_access_handler"),
    ("health_check interval=2s match=ok;", "health_check"),
    ("upstream_probe test uri=/probe;", "upstream_probe"),
    ("proxy_wasm my_filter;", "proxy_wasm"),
    ("content_by_php_block { echo 1; }", "content_by_php_block"),
]
TO_APP = [
    "server {{ {} location / {{ proxy_pass http://app; }} }}",
    "server {{ location / {{ {} proxy_pass http://app/x/; }} }}",
    "server {{ location /a {{ {} }} location @b {{ grpc_pass grpc://app; }} }}",
    "server {{ location / {{ if ($x) {{ {} }} }} location ~ y {{ uwsgi_pass APP; }} }}",
    "server {{ set $to app; location / {{ {} proxy_pass http://$to; }} }}",
    "server {{ location / {{ {} proxy_pass $scheme://$host$uri; }} }}",
    "server {{ include site/*.conf; location / {{ {} }} }}",
]


@pytest.mark.parametrize(("directive", "name"), CODE)
def test_code_where_requests_go_to_the_upstream(directive: str, name: str, tmp_path: Path) -> None:
    """In a server block that leads there, by name or by a variable, or beside all of them."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "p.conf").write_text("location /p { fastcgi_pass app; }")
    for site in TO_APP:
        text = f"http {{ {site.format(directive)} upstream app {{ {TWO} }} }}"
        assert refused(tmp_path, text) == [name], site
        assert refused(tmp_path, text, obeys=[name]) == []
    if "check" not in name.split("_") and name != "upstream_probe":
        text = f"http {{ {directive} upstream app {{ {TWO} }} }}"
        assert refused(tmp_path, text) == [name]


@pytest.mark.parametrize(("directive", "name"), CODE)
def test_code_of_another_site_is_no_reason(directive: str, name: str, tmp_path: Path) -> None:
    """A server block that leads to other upstreams and addresses cannot name this one."""
    for to in ("http://other", "http://other$request_uri", "http://10.0.0.7:8080/app", "$ours"):
        site = f"server {{ location / {{ {directive} proxy_pass {to}; }} }}"
        text = f"http {{ upstream app {{ {TWO} }} {site} server {{ proxy_pass http://app; }} }}"
        assert refused(tmp_path, text) == ([name] if to == "$ours" else []), to


HARMLESS = [
    "init_by_lua_block { require 'resty.core' collectgarbage('collect') }",
    "init_by_lua_block { cjson = require('cjson.safe') }",
    "access_by_lua_block { if ngx.var.arg_x then return ngx.exit(403) end }",
    "init_worker_by_lua_block { ngx.timer.at(0, function() ngx.sleep(1) end) }",
    "rewrite_by_lua_no_postpone on; lua_package_path '/x/?.lua;;'; lua_shared_dict hc 1m;",
    "js_import main from http.js; js_set $x main.y; js_path /x; js_shared_dict_zone zone=d:1m;",
    "check_shm_size 10m; upstream_fair_shm_size 64k;",
    "proxy_next_upstream off; proxy_next_upstream_tries 2; grpc_next_upstream_timeout 3s;",
    "vhost_traffic_status_zone; vhost_traffic_status_bypass_upstream_stats on;",
    "geo $x { default 0; } map $a $b { include types; default http://app; }",
    "log_format main '$upstream_addr'; more_set_headers 'X: require';",
]


@pytest.mark.parametrize("directives", HARMLESS)
def test_what_changes_nothing(directives: str, tmp_path: Path) -> None:
    """Settings, what only shows, and Lua that calls nothing by which servers can be changed."""
    text = f"http {{ {directives} upstream app {{ {TWO} }} {TO_APP[0].format('')} }}"
    assert refused(tmp_path, text) == []


def test_modules_that_are_merely_loaded_are_a_note(tmp_path: Path) -> None:
    """Those that are not Nginx's own are named by check-config; nothing is refused."""
    load = "".join(
        f"load_module modules/{name}.so;\n"
        for name in ("ngx_http_lua_module", "ngx_http_geoip_module", "ngx_http_dyups_module")
    )
    text = f"{load} http {{ upstream app {{ {TWO} }} }}"
    assert refused(tmp_path, text) == []
    (said,) = [one for one in registry(tmp_path, text).advice() if "loaded" in one]
    assert "ngx_http_dyups_module.so, ngx_http_lua_module.so" in said
    assert "geoip" not in said


def test_files_of_sites_that_cannot_be_read_are_a_note(tmp_path: Path) -> None:
    """They hold no upstream, and may be in another container: named, and nothing is refused."""
    site = "server { include not/there.conf; include no/*.match; location / { include loop; } }"
    site += " map $a $b { include fifo; } server { include broken; } geo $c { include long; }"
    (tmp_path / "loop").write_text("include loop;")
    (tmp_path / "broken").write_text("location / {")
    (tmp_path / "long").write_text("10.0.0.0/8 a:b;\n" * 100_000)
    os.mkfifo(tmp_path / "fifo")
    text = f"http {{ upstream app {{ {TWO} }} {site} }}"
    assert refused(tmp_path, text) == []
    said = "\n".join(registry(tmp_path, text).advice())
    assert (
        f"{tmp_path}/not/there.conf, which {tmp_path}/nginx.conf:2 includes (No such file" in said
    )
    for why in (
        "leads back to its own file",
        f"{tmp_path}/fifo, which",
        "it is a FIFO, and no plain file",
        "expecting",
        "bytes",
    ):
        assert why in said
