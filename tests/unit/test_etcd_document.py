"""One member out of a JSON text and back again, and not another byte."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deregister_agent.errors import AgentError
from deregister_agent.registries.etcd.json_document import Members, Removed, plain
from deregister_agent.registries.etcd.layouts import Address

UPSTREAM = """{ "nodes": ["10.0.0.2:80"], "retries": 1.50,
  "nodes": [
    {"host": "10.0.0.1", "port": 80, "weight": 1e0},
    {"host": "10.0.0.2", "port": 80, "weight": 2}
  ], "n": {"nodes": [ "10.0.0.1:80" ]}, "big": 12345678901234567890123
}
"""


def address(text: str) -> Address:
    found = Address.parse(text)
    assert found is not None
    return found


def out(text: str, pointer: str, who: str) -> tuple[str, Removed]:
    """Take a member out; what is kept has been through the journal."""
    members = Members.read(text.encode(), pointer)
    index = members.find(address(who))
    assert index is not None
    kept = json.loads(json.dumps(plain(members.taken(index))))
    return members.without(index).decode(), Removed(**kept)


def back(text: str, pointer: str, kept: Removed) -> str:
    return Members.read(text.encode(), pointer).including(kept).decode()


@pytest.mark.parametrize(
    ("text", "pointer", "who", "without"),
    [
        ('["a:1", "b:2"]', "", "a:1", '["b:2"]'),
        ('["a:1", "b:2"]', "", "b:2", '["a:1"]'),
        ('[ "a:1" ]', "", "a:1", "[]"),
        ('{"x/y": {"~": ["a:1","b:2"]}}', "/x~1y/~0", "a:1", '{"x/y": {"~": ["b:2"]}}'),
        ('[0, {"s": ["a:1" ,"b:2" , "c:3"]}]', "/1/s", "b:2", '[0, {"s": ["a:1" ,"c:3"]}]'),
        ('{"nodes": {"a:1": 1, "b:2" : 1.0}}', "/nodes", "b:2", '{"nodes": {"a:1": 1}}'),
        ('{"1": ["a:1"], "0": []}', "/1", "a:1", '{"1": [], "0": []}'),
    ],
)
def test_out_and_back(text: str, pointer: str, who: str, without: str) -> None:
    """Only the member and one comma go; put back, the text is what it was."""
    after, kept = out(text, pointer, who)
    assert after == without
    assert back(after, pointer, kept) == text


_HOSTS = st.lists(st.integers(1, 99), min_size=1, max_size=6, unique=True)


@given(hosts=_HOSTS, data=st.data(), indent=st.sampled_from([None, 0, 2]), named=st.booleans())
def test_any_member_of_any_list(hosts: list[int], data: Any, indent: int, named: bool) -> None:
    """Whatever its place and however the text is laid out, what went comes back the same."""
    texts = [f"10.0.0.{host}:80" for host in hosts]
    nodes: Any = dict.fromkeys(texts, 1) if named else [{"address": text} for text in texts]
    text = json.dumps({"a": [1], "nodes": nodes, "z": {}}, indent=indent)
    gone = data.draw(st.sampled_from(texts))
    after, kept = out(text, "/nodes", gone)
    assert gone not in after
    assert len(json.loads(after)["nodes"]) == len(texts) - 1
    assert back(after, "/nodes", kept) == text


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


def test_nothing_else_is_touched() -> None:
    """Blanks and number forms stay; of a name that stands twice the last counts, as to readers."""
    after, kept = out(UPSTREAM, "/nodes", "10.0.0.2:80")
    gone = '{"host": "10.0.0.2", "port": 80, "weight": 2}'
    assert after == UPSTREAM.replace(f",\n    {gone}", "")
    assert back(after, "/nodes", kept) == UPSTREAM


def test_it_comes_back_behind_its_neighbour() -> None:
    """If others have come and gone meanwhile, the one before it shows the place."""
    _, kept = out('["a:1","b:2","c:3"]', "", "b:2")
    assert back('["x:9","a:1","c:3"]', "", kept) == '["x:9","a:1","b:2","c:3"]'
    assert back('["c:3"]', "", kept) == '["c:3","b:2"]'
    assert back("[]", "", kept) == '["b:2"]'


@pytest.mark.parametrize(
    ("text", "pointer", "why"),
    [
        ("nodes: []", "", "not JSON"),
        ("[" * 100_000, "", "not JSON"),
        ('{"a": 1}', "/nodes", "nothing at '/nodes'"),
        ('{"a": [1]}', "/a/5", "nothing at"),
        ('{"a": 1}', "/a", "no list or object"),
        ('{"a": 1}', "/a/b", "no list or object"),
        ('["a:1", {"address": "a:1"}]', "", '2 members are a:1: "a:1", {"address": "a:1"}'),
        ('[{"target": "a", "p": 1}]', "", "in a form that is not known"),
        ('[{"host": "a", "weight": 1}]', "", "in a form that is not known"),
    ],
)
def test_what_cannot_be_read_is_an_error(text: str, pointer: str, why: str) -> None:
    """A document that is not as the options say does not mean that the instance is out."""
    with pytest.raises(AgentError, match=why):
        Members.read(text.encode(), pointer).find(address("a:1"))


def test_others_are_counted_by_address() -> None:
    """Twice the same address is one other."""
    members = Members.read(b'["a:1", "b:2", "b:2", "c:3", 7]', "")
    assert members.others(address("a:1")) == 2
    assert members.find(address("z:1")) is None
