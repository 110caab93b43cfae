"""
Ways in which frameworks and people write the instance 10.0.0.7:8080 of ``orders`` in etcd.

A table of facts: each row says what is written and where that was read. The options are those
that an operator would give for the framework, without the help of a named key.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

HOST, PORT = "10.0.0.7", 8080
AT = f"{HOST}:{PORT}"
VARINT = b"\x90\x3f"  # 8080, as protobuf writes it
Outcome = Literal["recognised", "refused", "shared", "beside"]
"""What becomes of it as the only registration: it is read; a look refuses it, as it cannot read it
or reads another in it as well; or it stands beside the prefix, where a look sees nothing, and what
looks like the instance is named."""


@dataclass(frozen=True)
class Way:
    """One way to write the instance."""

    name: str
    key: str
    value: Any  # JSON unless it is text or bytes
    outcome: Outcome
    options: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)  # other keys of the same instance
    host: str = HOST

    @property
    def content(self) -> bytes:
        """The value, as etcd has it."""
        if isinstance(self.value, bytes):
            return self.value
        text = self.value if isinstance(self.value, str) else json.dumps(self.value)
        return text.encode()


def _below(prefix: str, **options: str) -> dict[str, str]:
    return {"prefix": prefix} | options


def _field(number: int, content: bytes) -> bytes:
    """Return a field of protobuf that holds a text or a message of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


_KUBERNETES = _field(1, _field(1, HOST.encode())) + _field(
    3, _field(1, b"http") + b"\x10" + VARINT + _field(3, b"TCP")
)
_VITESS = _field(2, HOST.encode()) + _field(4, _field(1, b"vt") + b"\x10" + VARINT)
_MSGPACK = b"\x82\xa4host\xa8" + HOST.encode() + b"\xa4port\xcd\x1f\x90"
_PORT_BEHIND = _field(1, HOST.encode()) + b"\x30" + VARINT  # 0x30, of field 6, is a digit as well

WAYS = [
    # etcd client/v3/naming/endpoints/endpoints_impl.go: target/anything, JSON of Update
    Way(
        "grpc-endpoints",
        f"orders/{AT}",
        {"Op": 0, "Addr": AT, "Metadata": None},
        "recognised",
        {"layout": "grpc"},
    ),
    # etcd Documentation/dev-guide/grpc_naming.md (the resolver of 3.3): an example has no port
    Way(
        "grpc-resolver-without-port",
        f"orders/{HOST}",
        {"Addr": HOST, "Metadata": "..."},
        "refused",
        {"layout": "grpc"},
    ),
    # grpc-go's own spelling of a target, as the value of Addr
    Way("grpc-ipv4-scheme", "orders/1", {"Addr": f"ipv4:{AT}"}, "refused", {"layout": "grpc"}),
    # zeromicro/go-zero core/discov/publisher.go: key/lease, the plain address
    Way("go-zero", "orders.rpc/7587870134829102", AT, "recognised", _below("orders.rpc")),
    # go-zero core/discov/publisher.go, WithId: key/id
    Way("go-zero-with-id", "orders.rpc/1", AT, "recognised", _below("orders.rpc")),
    # go-kratos/kratos contrib/registry/etcd/registry.go and registry/registry.go
    Way(
        "kratos",
        "/microservices/orders/2f1c",
        {
            "id": "2f1c",
            "name": "orders",
            "version": "v1",
            "metadata": {},
            "endpoints": [f"http://{AT}", f"grpc://{HOST}:9000?isSecure=false"],
        },
        "recognised",
        {"layout": "kratos"},
    ),
    # micro/go-micro plugins/registry/etcd/etcd.go: one node in each value
    Way(
        "go-micro",
        "/micro/registry/orders/orders-5ac1",
        {
            "name": "orders",
            "version": "latest",
            "nodes": [{"id": "orders-5ac1", "address": AT, "metadata": {"protocol": "grpc"}}],
        },
        "recognised",
        {"layout": "go-micro"},
    ),
    # kitex-contrib/registry-etcd etcd_registry.go
    Way(
        "kitex",
        f"kitex/registry-etcd/orders/{AT}",
        {"network": "tcp", "address": AT, "weight": 10, "tags": None},
        "recognised",
        {"layout": "kitex"},
    ),
    # hertz-contrib/registry/etcd/registry.go: the same below another root
    Way(
        "hertz",
        f"hertz/registry-etcd/orders/{AT}",
        {"network": "tcp", "address": AT, "weight": 10, "tags": {"a": "b"}},
        "recognised",
        _below("hertz/registry-etcd/orders"),
    ),
    # rpcxio/rpcx-etcd serverplugin: base/service/network@address, metadata as a query
    Way("rpcx", f"/rpcx/orders/tcp@{AT}", "group=a&tps=0", "refused", _below("/rpcx/orders")),
    Way(
        "rpcx-ipv6",
        "/rpcx/orders/quic@[fd00:0:0:0:0:0:0:7]:8080",
        "",
        "refused",
        _below("/rpcx/orders"),
        host="fd00::7",
    ),
    # coredns plugin/etcd/README.md and plugin/etcd/msg/service.go
    Way(
        "skydns",
        "/skydns/orders/x1",
        {"host": HOST, "port": PORT, "priority": 10, "ttl": 60},
        "recognised",
        {"layout": "skydns"},
    ),
    # coredns plugin/etcd/README.md: an A record at the name itself, which needs no port
    Way(
        "coredns-name",
        "/skydns/orders",
        {"host": HOST, "port": PORT},
        "beside",
        {"layout": "skydns"},
    ),
    Way("coredns-host", "/skydns/orders", {"host": HOST}, "beside", {"layout": "skydns"}),
    # traefik docs/content/routing/providers/kv.md
    Way(
        "traefik",
        "traefik/http/services/orders/loadbalancer/servers/0/url",
        f"http://{AT}/",
        "recognised",
        {"layout": "traefik"},
        {"traefik/http/services/orders/loadbalancer/servers/0/weight": "1"},
    ),
    # traefik's keys are case-insensitive (paerser); docs write loadBalancer as well
    Way(
        "traefik-letter-case",
        "traefik/http/services/orders/loadBalancer/servers/0/url",
        f"http://{AT}",
        "beside",
        {"layout": "traefik"},
    ),
    # traefik docs/content/reference/dynamic-configuration/kv-ref.md, TCP services
    Way(
        "traefik-tcp",
        "traefik/tcp/services/orders/loadbalancer/servers/0/address",
        AT,
        "recognised",
        _below("traefik/tcp/services/orders/loadbalancer/servers"),
    ),
    # seata-go pkg/discovery/etcd3.go and its test: no slash in front of the address
    Way("seata", f"registry-seata-default-{AT}", AT, "beside", _below("registry-seata-default")),
    # gliderlabs/registrator docs/user/backends.md: /service/host:container:port
    Way(
        "registrator",
        "/services/orders/host1:orders:8080",
        AT,
        "recognised",
        _below("/services/orders"),
    ),
    # gliderlabs/registrator docs/user/backends.md, SkyDNS 2
    Way(
        "registrator-skydns2",
        "/skydns/local/cluster/orders/host1-orders-8080",
        f'{{"host":"{HOST}","port":{PORT}}}',
        "recognised",
        _below("/skydns/local/cluster/orders"),
    ),
    # apache/dubbo-go registry/etcdv3/registry.go: the escaped URL is the key
    Way(
        "dubbo-url",
        f"/dubbo/orders/providers/dubbo%3A%2F%2F{HOST}%3A{PORT}%2Forders%3Fanyhost%3Dtrue",
        "",
        "refused",
        _below("/dubbo/orders/providers"),
    ),
    # apache/dubbo-go registry/etcdv3/service_discovery.go and registry/service_instance.go
    Way(
        "dubbo-service-discovery",
        "/services/orders/2f1c",
        {"ID": "2f1c", "ServiceName": "orders", "Host": HOST, "Port": PORT, "Enable": True},
        "recognised",
        _below("/services/orders"),
    ),
    # spring-cloud-etcd EtcdDiscoveryProperties: this prefix; the key has appName:port
    Way(
        "spring-cloud-etcd",
        "/spring/cloud/discovery/orders/orders:8080",
        AT,
        "recognised",
        _below("/spring/cloud/discovery/orders", match="value"),
    ),
    # The same with the options of a first try: the name of the key is an address as well
    Way(
        "spring-cloud-etcd-either",
        "/spring/cloud/discovery/orders/orders:8080",
        AT,
        "shared",
        _below("/spring/cloud/discovery/orders"),
    ),
    # mafintosh/etcd-registry README.md (Node.js)
    Way(
        "node-etcd-registry",
        "/services/orders/5ac1",
        {"name": "orders", "port": PORT, "hostname": HOST, "host": AT, "url": f"http://{AT}"},
        "recognised",
        _below("/services/orders"),
    ),
    # The properties of Spring's ServiceInstance, as JSON
    Way(
        "spring-service-instance",
        "/services/orders/orders-1",
        {
            "instanceId": "orders-1",
            "serviceId": "orders",
            "host": HOST,
            "port": str(PORT),
            "secure": False,
            "uri": f"http://{AT}",
        },
        "recognised",
        _below("/services/orders"),
    ),
    # kelseyhightower/confd docs/quick-start-guide.md: /myapp/upstream/app1
    Way("confd", "/orders/upstream/app1", AT, "recognised", _below("/orders/upstream")),
    # confd templates with a key for each property of a node
    Way(
        "confd-properties",
        "/orders/upstream/1/host",
        HOST,
        "refused",
        _below("/orders/upstream"),
        {"/orders/upstream/1/port": str(PORT)},
    ),
    # vulcand docs/source/proxy.rst: a backend's servers
    Way(
        "vulcand",
        "/vulcand/backends/orders/servers/srv1",
        {"Id": "srv1", "URL": f"http://{AT}"},
        "refused",
        _below("/vulcand/backends/orders/servers"),
    ),
    # weibocom/nginx-upsync-module README.md
    Way(
        "nginx-upsync",
        f"/upstreams/orders/{AT}",
        {"weight": 1, "max_fails": 2, "fail_timeout": 10, "down": 0},
        "recognised",
        _below("/upstreams/orders"),
    ),
    # gogf/gf contrib/registry/etcd and net/gsvc: the endpoints are the last part of the key
    Way(
        "goframe",
        f"/service/default/default/orders/latest/{AT}",
        {"insecure": True},
        "recognised",
        _below("/service/default/default/orders/latest"),
    ),
    # gogf/gf net/gsvc Endpoints.String(): several are joined with commas
    Way(
        "goframe-endpoints",
        f"/service/default/default/orders/latest/{HOST}:9090,{AT}",
        {"insecure": True},
        "refused",
        _below("/service/default/default/orders/latest"),
    ),
    # douyu/jupiter pkg/registry/etcdv3: /wsd-reg/name/providers/scheme://address
    Way(
        "jupiter",
        f"/wsd-reg/orders/providers/grpc://{AT}",
        {"name": "orders", "schema": "grpc", "address": AT, "labels": {"enable": "true"}},
        "recognised",
        _below("/wsd-reg/orders/providers"),
    ),
    # go-kit/kit sd/etcdv3/example_test.go: the instance is prefix and address, its value a URL
    Way(
        "go-kit", f"/services/orders/{AT}", f"http://{AT}", "recognised", _below("/services/orders")
    ),
    # apache/servicecomb-service-center docs: /cse-sr/inst/files/domain/project/service/instance
    Way(
        "servicecomb",
        "/cse-sr/inst/files/default/default/7062417b/b0ffb9fe",
        {
            "instanceId": "b0ffb9fe",
            "serviceId": "7062417b",
            "endpoints": [f"rest://{AT}?sslEnabled=false"],
            "hostName": "vm1",
            "status": "UP",
        },
        "recognised",
        _below("/cse-sr/inst/files/default/default/7062417b"),
    ),
    # milvus-io/milvus internal/util/sessionutil/session_util.go
    Way(
        "milvus",
        "by-dev/meta/session/proxy-12",
        {"ServerID": 12, "ServerName": "proxy", "Address": AT, "TriggerKill": True},
        "recognised",
        _below("by-dev/meta/session"),
    ),
    # pingcap/tidb pkg/domain/infosync/info.go: /topology/tidb/address/info and /ttl
    Way(
        "tidb-topology",
        f"/topology/tidb/{AT}/info",
        {"version": "8.1.0", "status_port": 10080},
        "refused",
        _below("/topology/tidb"),
        {f"/topology/tidb/{AT}/ttl": "1700000000"},
    ),
    # pingcap/tidb pkg/domain/infosync/info.go: /tidb/server/info/uuid
    Way(
        "tidb-server-info",
        "/tidb/server/info/8d2c",
        {"ddl_id": "8d2c", "ip": HOST, "listening_port": PORT, "status_port": 10080},
        "refused",
        _below("/tidb/server/info"),
    ),
    # apache/shenyu shenyu-register-client-etcd, and its EtcdClientRegisterRepositoryTest
    Way(
        "shenyu",
        f"/shenyu/register/uri/http/orders/{AT}",
        {"protocol": "http://", "appName": "orders", "rpcType": "http", "host": HOST, "port": PORT},
        "recognised",
        _below("/shenyu/register/uri/http/orders"),
    ),
    # patroni/patroni docs/dcs: members have URLs under names of their own
    Way(
        "patroni",
        "/service/orders/members/pg1",
        {"conn_url": f"postgres://{AT}/postgres", "api_url": f"http://{HOST}:8008/patroni"},
        "refused",
        _below("/service/orders/members"),
    ),
    # kubernetes/api core/v1/generated.proto: Endpoints are protobuf behind "k8s" and a zero
    Way(
        "kubernetes-endpoints",
        "/registry/services/endpoints/default/orders",
        b"k8s\0" + _field(2, _KUBERNETES),
        "refused",
        _below("/registry/services/endpoints/default"),
    ),
    # vitessio/vitess proto/topodata.proto: hostname, and a map of ports
    Way(
        "vitess",
        "/vitess/zone1/tablets/zone1-100/Tablet",
        _VITESS,
        "refused",
        _below("/vitess/zone1/tablets"),
    ),
    # protobuf by hand: the tag of the port's field is a digit right behind the host
    Way("protobuf-tag-is-a-digit", "orders/1", _PORT_BEHIND, "refused", _below("orders")),
    # msgpack.org's spec.md: a text of 8 bytes, a number of 16 bits
    Way("msgpack", "orders/1", _MSGPACK, "refused", _below("orders")),
    # envoy api core/v3/address.proto, as JSON
    Way(
        "envoy-endpoint",
        "orders/1",
        {"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": PORT}}}},
        "refused",
        _below("orders"),
    ),
    # zalando/skipper docs: routes in its own language
    Way(
        "skipper", "orders/1", f'orders: Path("/o") -> "http://{AT}";', "refused", _below("orders")
    ),
    # TarsCloud: the text of an endpoint
    Way("tars", "orders/1", f"tcp -h {HOST} -p {PORT} -t 60000", "refused", _below("orders")),
    # By hand, as seen in questions and posts
    Way("service-and-address", f"orders/orders-{AT}", "{}", "refused", _below("orders")),
    Way("service-dot-address", f"svc/orders.{AT}", "{}", "refused", _below("svc")),
    Way("service-at-address", f"svc/orders@{AT}", "{}", "refused", _below("svc")),
    Way("underscore", f"orders/{HOST}_{PORT}", "up", "refused", _below("orders")),
    Way("dashes", "orders/ip-10-0-0-7-8080", "up", "refused", _below("orders")),
    Way("dot-before-port", f"orders/{HOST}.{PORT}", "up", "refused", _below("orders")),
    Way("host-is-key", f"orders/{HOST}", str(PORT), "refused", _below("orders")),
    Way("host-then-port", f"orders/{HOST}/{PORT}", "up", "refused", _below("orders")),
    Way("comma-list", "orders/all", f"10.0.0.6:8080,{AT}", "refused", _below("orders")),
    Way("lines", "orders/all", f"10.0.0.6:8080\n{AT}\n", "refused", _below("orders")),
    Way("weight-behind", "orders/1", f"{AT} weight=10", "refused", _below("orders")),
    Way("bar-and-weight", "orders/1", f"{AT}|10", "refused", _below("orders")),
    Way("properties", "orders/1", f"host={HOST}\nport={PORT}", "refused", _below("orders")),
    Way(
        "yaml",
        "orders/1",
        f"server:\n  host: {HOST}\n  port: {PORT}\n",
        "refused",
        _below("orders"),
    ),
    Way("tuple", "orders/1", f"('{HOST}', {PORT})", "refused", _below("orders")),
    Way("xml", "orders/1", f"<ip>{HOST}</ip><port>{PORT}</port>", "refused", _below("orders")),
    Way(
        "json-in-json", "orders/1", {"v": json.dumps({"a": f"\n{AT}"})}, "refused", _below("orders")
    ),
    Way("port-is-a-text", "orders/1", {"ip": HOST, "port": "8080"}, "recognised", _below("orders")),
    Way(
        "port-is-a-float",
        "orders/1",
        f'{{"ip": "{HOST}", "port": 8080.0}}',
        "refused",
        _below("orders"),
    ),
    Way(
        "nested",
        "orders/1",
        {"net": {"ip": HOST}, "ports": {"http": PORT}},
        "refused",
        _below("orders"),
    ),
    Way("path", "orders/1", {"address": f"{AT}/api"}, "refused", _below("orders")),
    Way("url-with-path", "orders/1", f"http://{AT}/api", "recognised", _below("orders")),
    Way(
        "two-doors",
        "orders/1",
        {"address": f"{HOST}:9090", "http": {"port": PORT}},
        "refused",
        _below("orders"),
    ),
    Way(
        "base64-twice",
        "orders/1",
        b64encode(json.dumps({"host": HOST, "port": PORT}).encode()).decode(),
        "refused",
        _below("orders"),
    ),
    Way("base64-key", f"orders/{b64encode(AT.encode()).decode()}", "", "refused", _below("orders")),
    Way("mapped-ipv6", "orders/1", f"[::ffff:{HOST}]:{PORT}", "recognised", _below("orders")),
    Way("mapped-in-hex", "orders/1", "tcp@[::ffff:a00:7]:8080", "refused", _below("orders")),
    Way("ipv6-dashes", "orders/n-fd00--7-8080", "up", "refused", _below("orders"), host="fd00::7"),
    Way(
        "host-name",
        "orders/tcp@Web-1.Internal.:8080",
        "",
        "refused",
        _below("orders"),
        host="web-1.internal",
    ),
]
