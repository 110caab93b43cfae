"""What is remembered of Nginx' workers, and what records of earlier versions still say."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from deregister_agent.registries.nginx.proof_record import (
    DownServer,
    Proof,
    ProofRecord,
    covered,
    load,
)

KEY = "http/app 10.0.0.7:8080"


def written(path: Path, proof: Proof, *, without: str = "") -> Proof:
    """Return *proof* once it has been on disk, where a version wrote it that lacked a key."""
    record = asdict(ProofRecord(proofs=(proof,)))
    record["proofs"] = [{k: v for k, v in asdict(proof).items() if k != without}]
    path.write_text(json.dumps(record))
    (read,) = load(path).proofs
    return read


@pytest.mark.parametrize(
    ("doubts", "obeys", "good"),
    [
        ({}, (), True),
        ({"http/other": ["session_sticky"]}, (), True),
        ({"http/app": ["session_sticky"]}, (), False),
        ({"http/app": ["session_sticky"]}, ("session_sticky",), True),
        ({"http/app": ["check", "session_sticky"]}, ("session_sticky",), False),
    ],
)
def test_down_proves_nothing_where_something_may_not_obey(
    tmp_path: Path, doubts: dict[str, list[str]], obeys: tuple[str, ...], *, good: bool
) -> None:
    """Unless the operator vouches for all that the workers have."""
    proof = written(tmp_path / "record", Proof(("7",), "old", (KEY,), 1.0, doubts))
    server = DownServer(KEY, frozenset(obeys))
    assert server.is_in(proof) is good
    assert covered(["7", "8"], [proof], "new", server) == ({"7"} if good else set())


def test_a_proof_of_an_earlier_version_had_not_looked(tmp_path: Path) -> None:
    """Nobody knows what those workers have; that they run these very files still counts."""
    proof = written(tmp_path / "record", Proof(("7",), "old", (KEY,), 1.0), without="doubts")
    server = DownServer(KEY, frozenset())
    assert not server.is_in(proof)
    assert covered(["7"], [proof], "new", server) == set()
    assert covered(["7"], [proof], "old", server) == {"7"}
