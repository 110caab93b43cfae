"""
The directives that are known: those that obey ``down``, and those that may undo it.

What an upstream balances by stands on a list of what was seen to obey (the tests of
test_nginx_obeys.py run each), and everything else in an upstream is refused until the
operator vouches for it. Outside of upstreams no such list is possible, as Nginx has
hundreds of modules: there what runs code, or changes servers of running workers, is known
by its name. Sources: nginx.org/en/docs (the alphabetical index of directives) and the
pages of the modules named in test_nginx_unproved.py.
"""

import re
from functools import lru_cache

OBEYING = frozenset(
    {
        # They choose by other rules than turn and weight, and pass over what is down.
        *(b"least_conn", b"least_time", b"ip_hash", b"hash", b"random", b"sticky", b"fair"),
        # They choose nothing: connections, memory and names.
        *(b"keepalive", b"keepalive_requests", b"keepalive_time", b"keepalive_timeout"),
        *(b"zone", b"resolver", b"resolver_timeout"),
    }
)
"""What may stand in an upstream and leaves a server alone that is down."""

_STICKY_OF_NGINX = {"cookie", "route", "learn"}  # the module of that name says other words

RUNS_CODE = re.compile(
    rb"\w+_by_lua(?:_block|_file)?|\w+_by_php(?:_block|_file)?|mruby_\w+|perl|perl_set"
    rb"|js_(?:access|content|periodic|preread|filter)|proxy_wasm|wasm_call"
)
"""
What runs an operator's program in a worker, which may look for servers and change them.

Of njs, only what may wait for an answer: what it sets variables and filters headers with
can call nobody (nginx.org/en/docs/njs/reference.html: ngx.fetch()).
"""
_CHECKS = re.compile(rb"health_?check\w*|\w+_health_?check\w*|upstream_probe")
_CHANGES = re.compile(rb"api|dyups_interface|docker_endpoint|\w*upstream\w*")
_CHANGES_NOTHING = re.compile(
    rb"upstream|\w+_next_upstream(?:_tries|_timeout)?|\w+_upstream_tries|upstream_show"
    rb"|dynamic_upstream_status|vhost_traffic_status_\w+|stream_server_traffic_status_\w+"
    rb"|health_?check_status|upstream_fair_shm_size"
)
PASSES = re.compile(rb"\w+_pass")
"""What sends requests or connections somewhere; its first word says where."""
_SAYS_MORE = frozenset(
    {
        *(b"worker_shutdown_timeout", b"keepalive_min_timeout", b"proxy_next_upstream"),
        *(b"load_module", b"set"),
    }
)
_OWN_MODULES = re.compile(
    r"ngx_(?:stream|mail|http_geoip|stream_geoip|http_image_filter|http_xslt_filter)_module\.so"
    r"|ndk_http_module\.so"
)

_REACHES_OUT = re.compile(
    rb"\b(?:require|package|module|load|loadstring|loadfile|dofile|_G|getfenv|setfenv|debug|ffi)\b"
)
_REQUIRES = re.compile(
    rb"""\brequire\s*\(?\s*["'](?:resty\.core|resty\.lrucache|cjson|cjson\.safe)["']\s*\)?"""
)
_SPEAKS_OF_SERVERS = re.compile(rb"upstream|set_peer|dyups|balancer|healthcheck")


@lru_cache(4096)  # names come again and again, in thousands of server blocks
def is_noted(name: bytes) -> bool:
    """Tell whether a directive outside of upstreams says anything that is asked for later."""
    return name in _SAYS_MORE or PASSES.fullmatch(name) is not None or is_suspect(name)


def is_suspect(name: bytes) -> bool:
    """Tell whether a directive outside of upstreams may undo a ``down`` somewhere."""
    return RUNS_CODE.fullmatch(name) is not None or is_checker(name) or may_change_servers(name)


def obeys(name: bytes, said: list[str]) -> bool:
    """Tell whether a directive of an upstream is known to leave alone what is ``down``."""
    if name == b"random":
        return said in ([], ["two"], ["two", "least_conn"])
    if name == b"sticky":
        return bool(said) and said[0] in _STICKY_OF_NGINX
    return name in OBEYING


def is_checker(name: bytes) -> bool:
    """Tell whether a directive has servers of the upstream checked that is passed to there."""
    return _CHECKS.fullmatch(name) is not None and _CHANGES_NOTHING.fullmatch(name) is None


def may_change_servers(name: bytes) -> bool:
    """Tell whether a directive may let somebody change the servers of any upstream."""
    return _CHANGES.fullmatch(name) is not None and _CHANGES_NOTHING.fullmatch(name) is None


def only_shows(name: bytes, said: list[str], *, shared: bool) -> bool:
    """
    Tell whether what may change servers cannot change those of this upstream.

    *shared*: it has a ``zone``, without which the API of Nginx Plus and of Angie can change
    nothing; a path below /status only shows (en.angie.software/angie/docs: http_api).
    """
    may_write = bool(said) and not said[0].startswith("/status") and said != ["write=off"]
    return name == b"api" and not (shared and may_write)


def may_reach_servers(lua: bytes) -> bool:
    """
    Tell whether Lua may call the library that changes servers.

    Only what ``require`` returns can (lua-upstream-nginx-module), and a text that names
    neither that function, but for libraries known not to, nor another way to it, has none.
    """
    return _REACHES_OUT.search(_REQUIRES.sub(b"", lua)) is not None


def speaks_of_servers(lua: bytes, upstream: str) -> bool:
    """Tell whether Lua names an upstream, or libraries for the servers of any."""
    escaped = re.escape(upstream.encode(errors="surrogateescape"))
    name = re.compile(rb"(?<![\w.-])" + escaped + rb"(?![\w.-])")
    return bool(_SPEAKS_OF_SERVERS.search(lua) or name.search(lua))


def is_foreign_module(path: str) -> bool:
    """Tell whether a module that is loaded is neither Nginx's own nor one that only helps."""
    return _OWN_MODULES.fullmatch(path.rpartition("/")[2]) is None
