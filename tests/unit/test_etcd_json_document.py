"""One member out of a JSON document and back again, and nothing else changes."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deregister_agent.errors import AgentError
from deregister_agent.registries.etcd.json_document import DocumentMembers, RemovedMember
from deregister_agent.registries.etcd.layouts import LookAlike, WrittenAddress

UPSTREAM = """{ "retries": 1.50, "tiny": 1e-400, "huge": -1E+999, "zero": -0, "on": true,
  "nodes": [
    {"host": "10.0.0.1", "port": 80, "weight": 1e0},
    {"host": "10.0.0.2", "port": 80, "weight": 2}
  ], "n": {"nodes": [ "10.0.0.1:80" ]}, "big": 12345678901234567890123, "none": null,
  "text": "m\u00fc\ud800 \\u00e9 \\ud83d\\ude00 \\/ \\"1.0\\""
}
""".replace("\ud800", "\\ud800")


def address(text: str) -> WrittenAddress:
    found = WrittenAddress.parse(text)
    assert found is not None
    return found


def meaning(text: str) -> Any:
    """Return what a document says, the order of names and the digits of numbers included."""
    return json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str)


def out(text: str, pointer: str, who: str) -> tuple[str, RemovedMember]:
    """Take a member out; what is kept has been through the journal."""
    members = DocumentMembers.read(text.encode(), pointer)
    index = members.find(address(who))
    assert index is not None
    kept = json.loads(json.dumps(asdict(members.taken(index))))
    return members.without(index).decode(), RemovedMember(**kept)


def back(text: str, pointer: str, kept: RemovedMember) -> str:
    return DocumentMembers.read(text.encode(), pointer).including(kept).decode()


@pytest.mark.parametrize(
    ("text", "pointer", "who", "without"),
    [
        ('["a:1", "b:2"]', "", "a:1", '["b:2"]'),
        ('["a:1", "b:2"]', "", "b:2", '["a:1"]'),
        ('["a:1"]', "", "a:1", "[]"),
        ('{"x/y": {"~": ["a:1", "b:2"]}}', "/x~1y/~0", "a:1", '{"x/y": {"~": ["b:2"]}}'),
        ('[0, {"s": ["a:1", "b:2", "c:3"]}]', "/1/s", "b:2", '[0, {"s": ["a:1", "c:3"]}]'),
        ('{"nodes": {"a:1": 1, "b:2": 1.0}}', "/nodes", "b:2", '{"nodes": {"a:1": 1}}'),
        ('{"nodes": {"a:1": 1}}', "/nodes", "a:1", '{"nodes": {}}'),
        ('{"1": ["a:1"], "0": []}', "/1", "a:1", '{"1": [], "0": []}'),
    ],
)
def test_out_and_back(text: str, pointer: str, who: str, without: str) -> None:
    """Only the member goes; put back, the document is what it was."""
    after, kept = out(text, pointer, who)
    assert after == without
    assert back(after, pointer, kept) == text


_HOSTS = st.lists(st.integers(1, 99), min_size=1, max_size=6, unique=True)


@given(hosts=_HOSTS, data=st.data(), indent=st.sampled_from([None, 0, 2]), named=st.booleans())
def test_any_member_of_any_list(hosts: list[int], data: Any, indent: int, named: bool) -> None:
    """Wherever it stands and however the text is laid out, what went comes back the same."""
    texts = [f"10.0.0.{host}:80" for host in hosts]
    nodes: Any = dict.fromkeys(texts, 1) if named else [{"address": text} for text in texts]
    text = json.dumps({"a": [1], "nodes": nodes, "z": {}}, indent=indent)
    gone = data.draw(st.sampled_from(texts))
    after, kept = out(text, "/nodes", gone)
    assert gone not in after
    assert len(json.loads(after)["nodes"]) == len(texts) - 1
    assert meaning(back(after, "/nodes", kept)) == meaning(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(beside=st.dictionaries(st.text(), _JSON, max_size=4), ascii_only=st.booleans())
def test_all_else_keeps_its_meaning(beside: dict[str, Any], ascii_only: bool) -> None:
    """Whatever others have written, in names and values of any kind, stays in its order."""
    written = beside | {"nodes": ["a:1", "b:2"]}
    text = json.dumps(written, ensure_ascii=ascii_only)
    after, kept = out(text, "/nodes", "b:2")
    assert meaning(after) == meaning(json.dumps(written | {"nodes": ["a:1"]}))
    assert meaning(back(after, "/nodes", kept)) == meaning(text)


@given(hosts=_HOSTS, data=st.data())
def test_all_go_and_come_back_in_any_order(hosts: list[int], data: Any) -> None:
    """Many agents take turns in any order; in the end all members are there, once each."""
    texts = [f"10.0.0.{host}:80" for host in hosts]
    text = json.dumps({"nodes": [{"address": one, "w": 1} for one in texts]})
    kept = {}
    for one in data.draw(st.permutations(texts)):
        text, kept[one] = out(text, "/nodes", one)
    assert json.loads(text) == {"nodes": []}
    for one in data.draw(st.permutations(texts)):
        text = back(text, "/nodes", kept[one])
    assert sorted(n["address"] for n in json.loads(text)["nodes"]) == sorted(texts)


def test_numbers_keep_their_digits() -> None:
    """Those that Python would round, or not write as JSON at all, and texts that are no UTF-8."""
    after, kept = out(UPSTREAM, "/nodes", "10.0.0.2:80")
    gone = ',\n    {"host": "10.0.0.2", "port": 80, "weight": 2}'
    assert meaning(after) == meaning(UPSTREAM.replace(gone, ""))
    assert meaning(back(after, "/nodes", kept)) == meaning(UPSTREAM)
    _, kept = out(UPSTREAM, "/nodes", "10.0.0.1:80")
    assert meaning(back(after, "/nodes", kept))[5][1][0][2] == ("weight", "1e0")


def test_it_comes_back_behind_its_neighbour() -> None:
    """If others have come and gone meanwhile, the member before it shows the place."""
    _, kept = out('["a:1","b:2","c:3"]', "", "b:2")
    assert back('["x:9","a:1","c:3"]', "", kept) == '["x:9", "a:1", "b:2", "c:3"]'
    assert back('["c:3"]', "", kept) == '["c:3", "b:2"]'
    assert back("[]", "", kept) == '["b:2"]'


def test_what_an_older_agent_has_kept_comes_back() -> None:
    """It is the text as it stood in the document, with its blanks."""
    kept = RemovedMember('"b:2" : {"w":1.0}', '"a:1":1', 1)
    assert back('{"c:3": 1, "a:1": 1}', "", kept) == '{"c:3": 1, "a:1": 1, "b:2": {"w": 1.0}}'


def test_it_goes_where_it_came_from_or_nowhere() -> None:
    """Its name taken by another, or a list become an object: what is there stays."""
    _, kept = out('{"one": "a:1", "two": "b:2"}', "", "b:2")
    with pytest.raises(AgentError, match="something at 'two'"):
        back('{"two": "c:3"}', "", kept)
    with pytest.raises(AgentError, match="does not fit in between"):
        back('["c:3"]', "", kept)


@pytest.mark.parametrize(
    ("text", "pointer", "why"),
    [
        ("nodes: []", "", "not JSON"),
        ("[" * 100_000, "", "not JSON"),
        ('{"a": 1}', "/nodes", "nothing at '/nodes'"),
        ('{"a": [1]}', "/a/5", "nothing at"),
        ('{"a": 1}', "/a", "no list or object"),
        ('{"a": 1}', "/a/b", "nothing at '/a/b'"),
        ('{"a": "b"}', "/a/0", "nothing at"),
        ('["a:1"]', "/-", "no list or object"),
        ('{"nodes": ["a:1"], "nodes": []}', "/nodes", "'nodes' twice"),
        ('{"n": [{"x": 1, "y": 2, "x": 1}], "nodes": []}', "/nodes", "'x' twice"),
        ("\ufeff[]", "", "not JSON"),
        ('["a:1", {"address": "a:1"}]', "", '2 members are a:1: "a:1", {"address": "a:1"}'),
        ('[{"target": "a", "p": 1}]', "", "in a form that is not known"),
        ('[{"host": "a", "weight": 1}]', "", "in a form that is not known"),
    ],
)
def test_what_cannot_be_read_is_an_error(text: str, pointer: str, why: str) -> None:
    """A document that is not as the options say does not mean that the instance is out."""
    with pytest.raises(AgentError, match=why):
        DocumentMembers.read(text.encode(), pointer).find(address("a:1"))


def test_others_are_counted_by_address() -> None:
    """Twice the same address is one other."""
    members = DocumentMembers.read(b'["a:1", "b:2", "b:2", "c:3", 7]', "")
    assert members.others(address("a:1")) == 2
    assert members.find(address("z:1")) is None


@pytest.mark.parametrize(
    ("document", "pointer", "there"),
    [
        ({"nodes": ["10.0.0.1:80", "10.0.0.2:80"]}, "", "/nodes"),
        ({"up": {"nodes": {"10.0.0.1:80": 1, "10.0.0.1:81": 1}}}, "/up", "/up/nodes"),
        ({"a": [{"nodes": [{"host": "10.0.0.1", "port": 80}, "b:1"]}]}, "/a", "/a/0/nodes"),
    ],
)
def test_a_pointer_that_leads_too_high(document: Any, pointer: str, there: str) -> None:
    """The member would be all instances, and all would go: the right pointer is told."""
    members = DocumentMembers.read(json.dumps(document).encode(), pointer)
    with pytest.raises(LookAlike, match=f'pointer = "{there}"'):
        members.find(address("10.0.0.1:80"))


def test_one_instance_with_several_endpoints() -> None:
    """An endpoint for each protocol, or what holds only one instance, is one member still."""
    for value in (["http://10.0.0.1:80", "grpc://10.0.0.1:90"], ["10.0.0.1:80"]):
        text = json.dumps({"a": {"endpoints": value}, "b": "10.0.0.2:80"})
        assert DocumentMembers.read(text.encode(), "").find(address("10.0.0.1:80")) == 0
