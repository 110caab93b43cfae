"""Which real servers the tests run, and where Debian has them. A new server is one entry."""

from dataclasses import dataclass

LIBC = ("libc6",)
NGINX = (*LIBC, "libcrypt1", "libpcre2-8-0", "zlib1g", "nginx", "nginx-common")
NGINX_22 = (*NGINX, "libssl3")
NGINX_26 = (*NGINX, "libssl3t64", "libzstd1")
_LUA = ("libnginx-mod-http-ndk", "libnginx-mod-http-lua", "lua-resty-core", "lua-resty-lrucache")
_MODULES = ("libnginx-mod-stream", *_LUA, "libgcc-s1")
WITH_MODULES_22 = (*NGINX_22, *_MODULES, "libluajit2-5.1-2", "libpcre3")
WITH_MODULES_26 = (*NGINX_26, *_MODULES, "libluajit-5.1-2")
_NJS = ("libnginx-mod-http-js", "libnginx-mod-stream-js", "libxml2", "liblzma5")
THIRD_PARTY_22 = (*NGINX_22, "libnginx-mod-stream", "libnginx-mod-http-upstream-fair", *_NJS)
_NGINX = "usr/sbin/nginx"
SYSTEMD = ("libsystemd0", "libcap2", "libgcrypt20", "libgpg-error0", "liblz4-1", "liblzma5")
_REDIS = ("libatomic1", "libjemalloc2", "liblua5.1-0", "liblzf1", "libssl3", "libzstd1")
REDIS = (*LIBC, *SYSTEMD, *_REDIS, "lua-bitop", "lua-cjson", "redis-tools", "redis-server")
TRACING = ("libopentracing-c-wrapper0", "libopentracing1", "libstdc++6", "libgcc-s1")
_HAPROXY = ("libcrypt1", "liblua5.3-0", "libpcre2-8-0", "libssl3", "libzstd1", "haproxy")
HAPROXY = (*LIBC, *SYSTEMD, *TRACING, *_HAPROXY)
_RABBIT = ("libsctp1", "libssl3", "libstdc++6", "libgcc-s1", "libtinfo6", "zlib1g", "libzstd1")
_ERLANG = (
    *("asn1", "base", "crypto", "eldap", "ftp", "inets", "mnesia", "os-mon", "parsetools"),
    *("public-key", "runtime-tools", "snmp", "ssl", "syntax-tools", "tftp", "tools", "xmerl"),
)
BEAM = "usr/lib/erlang/erts-13.1.5/bin/erlexec"  # what starts RabbitMQ
RABBITMQ = (*LIBC, *SYSTEMD, *_RABBIT, *(f"erlang-{n}" for n in _ERLANG), "rabbitmq-server")

NATS = (*LIBC, "nats-server")
_PYTHON = ("libpython3.11", "libpython3.11-minimal", "libpython3.11-stdlib", "libssl3", "zlib1g")
_APACHE = ("libapr1", "libaprutil1", "libexpat1", "libuuid1", "libpcre2-8-0", "libcrypt1")
MOD_WSGI = (*LIBC, *_PYTHON, *_APACHE, "apache2-bin", "libapache2-mod-wsgi-py3")


@dataclass(frozen=True, slots=True)
class Server:
    """One program of one version: which packages it needs and how it says its version."""

    name: str
    suite: str  # of Debian; the newest package in its main archive is taken
    packages: tuple[str, ...]  # its own and those of the libraries it is linked with
    program: str  # where it lies in its package
    says: str  # part of what it prints when asked for its version
    version: str = "--version"  # how to ask


SERVERS = {
    server.name: server
    for server in (
        Server("consul", "bullseye", (*LIBC, "consul"), "usr/bin/consul", "Consul v", "version"),
        Server("etcd-3.4", "bookworm", (*LIBC, "etcd-server"), "usr/bin/etcd", "Version: 3.4."),
        Server("etcd-3.5", "trixie", (*LIBC, "etcd-server"), "usr/bin/etcd", "Version: 3.5."),
        Server("nginx-1.22", "bookworm", NGINX_22, _NGINX, "nginx/1.22.", "-v"),
        Server("nginx-1.26", "trixie", NGINX_26, _NGINX, "nginx/1.26.", "-v"),
        Server("nginx-1.22-modules", "bookworm", WITH_MODULES_22, _NGINX, "nginx/1.22.", "-v"),
        Server("nginx-1.26-modules", "trixie", WITH_MODULES_26, _NGINX, "nginx/1.26.", "-v"),
        Server("nginx-1.22-third-party", "bookworm", THIRD_PARTY_22, _NGINX, "nginx/1.22.", "-v"),
        Server("redis", "bookworm", REDIS, "usr/bin/redis-server", "Redis server v="),
        Server("rabbitmq", "bookworm", RABBITMQ, BEAM, "BEAM", "-version"),
        Server("faketime", "bookworm", ("faketime", "libfaketime"), "usr/bin/faketime", "Version"),
        Server(
            "nats", "bookworm", (*LIBC, "nats-server"), "usr/sbin/nats-server", "nats-server: v"
        ),
        Server("mod_wsgi", "bookworm", MOD_WSGI, "usr/sbin/apache2", "Apache/2.4.", "-v"),
        Server("haproxy", "bookworm", HAPROXY, "usr/sbin/haproxy", "HAProxy version", "-v"),
    )
}
