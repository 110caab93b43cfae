"""The Nginx configuration: read as Nginx reads it, one word changed, every other byte kept."""

import json
import re
import shutil
import string
from collections.abc import Iterator
from pathlib import Path

import crossplane  # type: ignore[import-untyped]
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from deregister_agent.registries.nginx.conf import ConfPaths
from deregister_agent.registries.nginx.parse import read
from deregister_agent.registries.nginx.server_address import ServerAddress, canonical
from deregister_agent.registries.nginx.tokens import UnreadableError, statements, words

CORPUS = Path(__file__).parents[1] / "nginx_corpus"
MAINS = sorted(CORPUS.glob("*.conf")) + sorted(CORPUS.glob("*/main.conf"))
NAMES = [str(path.relative_to(CORPUS)) for path in MAINS]
# crossplane gives up on these (its issue 87): Lua with an apostrophe, a bare word with a brace.
BEYOND_CROSSPLANE = {"with_lua/main.conf", "escapes.conf"}
APP = ServerAddress("10.0.0.7:8080")


@pytest.fixture(params=NAMES)
def main(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the main file of one configuration of the corpus, in a folder of its own."""
    shutil.copytree(CORPUS, tmp_path / "corpus")
    return tmp_path / "corpus" / str(request.param)


def all_bytes(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.glob("**/*")) if path.is_file()}


def mark(main: Path, *, down: bool, server: ServerAddress = APP) -> int:
    """Change the files as the agent does, and return how many."""
    seen = read(ConfPaths(main))
    after = seen.marked(seen.find("http", "app", server), down=down)
    for path, content in after.items():
        path.write_bytes(content)
    return len(after)


def test_down_adds_five_bytes_and_up_gives_the_file_back(main: Path) -> None:
    """Over the corpus: down adds " down" in one file, and up then leaves every byte as it was."""
    before = all_bytes(main.parent)
    assert mark(main, down=True) == 1
    after = all_bytes(main.parent)
    changed = {path: content for path, content in after.items() if content != before[path]}
    assert [len(content) - len(before[path]) for path, content in changed.items()] == [5]
    assert mark(main, down=True) == 0
    assert mark(main, down=False) == 1
    assert all_bytes(main.parent) == before


def parsed(main: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Return every directive with where it stands, as crossplane reads it."""
    payload = crossplane.parse(str(main), comments=False, check_ctx=False, check_args=False)
    if payload["status"] != "ok":
        raise ValueError(payload["errors"])
    found: list[tuple[str, tuple[str, ...]]] = []

    def walk(block: list[dict[str, object]], above: str) -> None:
        for one in block:
            place = f"{above}/{one['directive']}"
            found.append((place, tuple(one["args"])))  # type: ignore[arg-type]
            inner = one.get("block")
            if isinstance(inner, list):
                walk(inner, f"{place} {' '.join(one['args'])}")  # type: ignore[arg-type]

    for file in payload["config"]:
        walk(file["parsed"], file["file"])
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BEYOND_CROSSPLANE])
def test_another_parser_sees_exactly_one_change(name: str, tmp_path: Path) -> None:
    """A parser that is not ours reads the same directives, one of them with "down" at its end."""
    shutil.copytree(CORPUS, tmp_path / "corpus")
    main = tmp_path / "corpus" / name
    before = parsed(main)
    mark(main, down=True)
    after = parsed(main)
    assert len(after) == len(before)
    changed = [(b, a) for b, a in zip(before, after, strict=True) if a != b]
    assert [(a[1][0], a[1][len(b[1]) :]) for b, a in changed] == [("10.0.0.7:8080", ("down",))]
    assert changed[0][0][0].endswith("/server")


def test_a_server_listed_twice_is_marked_twice(tmp_path: Path) -> None:
    """Each directive of the server is marked, in whatever spelling, and no other."""
    main = tmp_path / "n.conf"
    main.write_text(
        "http { upstream app { server 10.0.0.7:8080; server 10.0.00.07:8080 weight=2; "
        "server [::ffff:10.0.0.7]:8080; server 10.0.0.7; } }"
    )
    before = main.read_bytes()
    mark(main, down=True)
    assert main.read_text() == (
        "http { upstream app { server 10.0.0.7:8080 down; server 10.0.00.07:8080 weight=2 down; "
        "server [::ffff:10.0.0.7]:8080 down; server 10.0.0.7; } }"
    )
    mark(main, down=False)
    assert main.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (" 10.0.0.7:8080  down weight=2", " 10.0.0.7:8080 weight=2"),
        (" 10.0.0.7:8080 # a\n down ", " 10.0.0.7:8080 # a\n "),
        (" 10.0.0.7:8080\n\tdown\n", " 10.0.0.7:8080\n\n"),
        (' 10.0.0.7:8080 "down"', " 10.0.0.7:8080"),
    ],
)
def test_up_copes_with_a_reformatted_down(given: str, left: str, tmp_path: Path) -> None:
    """A down that another tool has moved is still found, and only it is taken away."""
    main = tmp_path / "n.conf"
    main.write_text(f"http {{ upstream app {{ server{given}; }} }}")
    mark(main, down=False)
    assert main.read_text() == f"http {{ upstream app {{ server{left}; }} }}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("http {\n upstream app {\n server a;", 3),
        ("http { }\n}\n", 2),
        ('http {\n\n map x "unclosed; } }', 3),
        ('http { a "b"c; }', 1),
        ("events { }\nhttp { server\n", 2),
        ("{ }", 1),
        ("http { ; }", 1),
        ("http { a b }", 1),
        ("http {\n\n init_by_lua_block { x = 'y\n", 3),
        ("http { init_by_lua_block { --[[ } ]] \n", 1),
        ("http { upstream a {\n server;\n} }", 2),
        ("http {\n include a b;\n}", 2),
        ("http {\n include x/[^a]*;\n}", 2),
        ("http {\n include n.conf;\n}", 1),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, line: int, tmp_path: Path) -> None:
    """A file that Nginx would not read, or that is not certain, is refused with its line."""
    main = tmp_path / "n.conf"
    main.write_text(text)
    with pytest.raises(UnreadableError) as caught:
        read(ConfPaths(main))
    assert (caught.value.file, caught.value.line) == (main, line)
    assert str(caught.value).endswith(f"in {main}:{line}")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.7", "10.0.0.7:80", True),
        ("010.0.0.7:8080", "10.0.0.7:08080", True),
        ("[2001:DB8::7]:80", "[2001:db8:0::7]", True),
        ("[::ffff:10.0.0.7]:80", "10.0.0.7", True),
        ("App.Internal:80", "app.internal", True),
        ("unix:/run/A.sock", "unix:/run/a.sock", False),
        ("10.0.0.7:8080", "10.0.0.7:80", False),
        ("10.0.0.7:8080", "110.0.0.7:8080", False),
        ("[zz]:1", "[zz]:2", False),
    ],
)
def test_spellings_of_an_address(one: str, other: str, same: bool) -> None:
    """Spellings that Nginx takes for one address are one here; host names are not resolved."""
    assert ServerAddress(one).is_named(other.encode()) is same
    assert ServerAddress(other).is_named(one.encode()) is same
    assert canonical(canonical(one.encode())) == canonical(one.encode())


def test_a_root_is_put_before_absolute_includes(tmp_path: Path) -> None:
    """Where Nginx sees another file system, absolute includes are looked for below the root."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "n.conf").write_text("http { include /etc/up.conf; }")
    (tmp_path / "etc" / "up.conf").write_text("upstream app { server 10.0.0.7:8080; }")
    seen = read(ConfPaths(tmp_path / "etc" / "n.conf", tmp_path))
    assert len(seen.find("http", "app", APP)) == 1


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    """An absolute link in another file system means a file there, and not the one here."""
    inside, outside = tmp_path / "inside", tmp_path / "up.conf"
    (inside / "etc").mkdir(parents=True)
    (inside / "etc" / "n.conf").write_text("http { include /etc/up.conf; }")
    outside.write_text("upstream app { server 10.0.0.7:8080; }")
    (inside / "etc" / "up.conf").symlink_to(outside)
    with pytest.raises(UnreadableError, match="leads out of root"):
        read(ConfPaths(inside / "etc" / "n.conf", inside))


def test_a_change_on_disk_is_seen(tmp_path: Path) -> None:
    """What was read is no longer current after a rewrite, and after a new file in a pattern."""
    main = tmp_path / "n.conf"
    main.write_text("http { include up/*; upstream app { server 10.0.0.7:8080; } }")
    (tmp_path / "up").mkdir()
    seen = read(ConfPaths(main))
    assert seen.current()
    (tmp_path / "up" / "new").write_text("")
    assert not seen.current()
    seen = read(ConfPaths(main))
    main.write_text("http { include up/*; upstream app { server 10.0.0.7:8081; } }")
    assert not seen.current()


SPACES = st.sampled_from([b" ", b"\n", b"\t", b"\r\n", b"  ", b" # x;{}\"'\n", b"#\xe9\n "])
GAP = st.lists(SPACES, min_size=1, max_size=3).map(b"".join).filter(lambda g: g[:1] != b"#")
BARE = st.text(string.ascii_letters + string.digits + "=._-/~^[]()}*\"'#|:,", min_size=1).filter(
    lambda t: t[0] not in "}\"'#"
)
WORD = st.one_of(
    BARE.map(str.encode),
    st.binary(max_size=8).map(lambda b: b'"' + b.replace(b"\\", b"").replace(b'"', b'\\"') + b'"'),
    st.sampled_from([b"${a}b", b"\\;x", b"'it\\'s {'", b"$", b"${", b"a\\{b", b"server", b"down"]),
)
PARAMETER = st.sampled_from([b"weight=2", b"'max_fails=1'", b"backup", b"fail_timeout=3s"])
ADDRESS = st.sampled_from([b"10.0.0.8:80", b"unix:/run/a", b"[::1]:8080", b'"10.0.0.9:1"', b"h:1"])


@st.composite
def directive(draw: st.DrawFn, *first: bytes) -> bytes:
    """Return a simple directive with these first words, and more."""
    rest = draw(st.lists(WORD, max_size=3)) if not first else list(first)
    parts = [draw(BARE).encode(), *rest] if not first else rest
    return draw(GAP).join(parts) + draw(st.one_of(st.just(b""), GAP)) + b";"


@st.composite
def configuration(draw: st.DrawFn) -> tuple[bytes, int]:
    """Return a configuration, and how often its upstream lists the server that is up."""
    gaps = st.one_of(GAP)

    def server(address: bytes) -> bytes:
        given = draw(st.lists(PARAMETER, max_size=2, unique=True))
        return draw(directive(b"server", address, *given))

    ours = draw(st.integers(1, 3))
    spelled = st.sampled_from([b"10.0.0.7:8080", b'"10.0.0.7:8080"', b"'10.0.0.7:8080'"])
    servers = [server(draw(spelled)) for _ in range(ours)]
    servers += [server(address) for address in draw(st.lists(ADDRESS, max_size=3))]
    noise = st.one_of(
        directive(),
        directive().map(lambda d: b"map a $b {" + d + b"}"),
        st.just(b"upstream other { server 10.0.0.7:8080; }"),
        st.just(b"server { upstream app { } server 10.0.0.7:8080; }"),
    ).filter(lambda d: not d.startswith(b"include"))
    body = draw(gaps).join(draw(st.permutations(servers)))
    block = b"upstream" + draw(gaps) + b"app" + draw(gaps) + b"{" + body + draw(gaps) + b"}"
    parts = [*draw(st.lists(noise, max_size=3)), block, *draw(st.lists(noise, max_size=3))]
    return b"http {" + draw(gaps) + draw(gaps).join(parts) + draw(gaps) + b"}", ours


def served(content: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    for one in statements(content, Path("x")):
        yield one.name, [word.text for word in words(content, one.start, one.end)]


UNCLOSED = re.compile(rb"\$\{(?![^\s;{}]*\})")
"""
What crossplane reads on to the next brace, over spaces, comments and lines. To Nginx a space ends
the word all the same: ``nginx -t`` says of ``log_format a x${ # ...`` that "${" is invalid.
"""


def compare_with_crossplane(main: Path, before: bytes, ours: int) -> None:
    """Have crossplane read both, where it can read the one before, and reads it as Nginx does."""
    if UNCLOSED.search(before):
        event("beyond crossplane")
        return
    marked = main.read_bytes()
    main.write_bytes(before)
    try:
        old = parsed(main)
    except ValueError:
        event("beyond crossplane")
        return
    finally:
        main.write_bytes(marked)
    event("read by crossplane")
    changed = [(b, a) for b, a in zip(old, parsed(main), strict=True) if a != b]
    # Names in what is above a directive do not change: an upstream's servers hold no blocks.
    assert len(changed) == ours
    assert all(a == (b[0], (*b[1], "down")) for b, a in changed)


@settings(deadline=None, max_examples=300)
@given(configuration())
def test_up_undoes_down_whatever_the_layout(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[bytes, int]
) -> None:
    """For any configuration up(down(x)) == x, and down changes nothing but those directives."""
    before, ours = made
    main = tmp_path_factory.getbasetemp() / "generated.conf"
    main.write_bytes(before)
    assert mark(main, down=True) == 1
    after = main.read_bytes()
    assert len(after) == len(before) + 5 * ours
    changed = [(b, a) for b, a in zip(served(before), served(after), strict=True) if a != b]
    assert len(changed) == ours
    assert all(a == (b[0], [*b[1], b"down"]) for b, a in changed)
    compare_with_crossplane(main, before, ours)
    assert mark(main, down=False) == 1
    assert main.read_bytes() == before


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200).map(lambda b: b.replace(b"\0", b"")))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """Whatever the bytes, reading ends, with statements or with a refusal."""
    try:
        found = list(statements(content, Path("x")))
    except UnreadableError:
        return
    assert json.dumps([one.start for one in found])
