"""The same with a real etcd of each version, and an app that keeps the lease of its key alive."""

from pathlib import Path

import pytest

from tests.crash.test_crash import SLICES, dies_anywhere
from tests.servers import etcd as etcd_server


class EtcdWorld:
    """A key of the instance on a lease, and keys of others on the same."""

    version = "3.5"

    def __init__(self, folder: Path, port: int) -> None:
        del folder
        self._etcd = etcd_server.shared(self.version)
        self._prefix, self._port = f"web-{port}.rpc", port
        lease = self._etcd.grant(600)
        for name, at in (("1", port), ("2", 1)):
            self._etcd.put(f"{self._prefix}/{name}", f"127.0.0.1:{at}", lease)
        self._etcd.put(f"{self._prefix}2/1", f"127.0.0.1:{port}", lease)
        self._before = self._around()

    def table(self) -> str:
        return (
            f'[[instance.registry]]\nkind = "etcd"\nendpoints = ["{self._etcd.url}"]\n'
            f'layout = "go-zero"\nprefix = "{self._prefix}"\n'
        )

    def listed(self) -> bool:
        return self._etcd.get(f"{self._prefix}/1") == f"127.0.0.1:{self._port}"

    def _around(self) -> etcd_server.Keyspace:
        """Return this world's keys: those of worlds before it may be on leases that end now."""
        keys = self._etcd.keyspace()
        return {key: value for key, value in keys.items() if key.startswith(self._prefix)}

    def others_untouched(self) -> bool:
        return self._around() == self._before


class OldEtcdWorld(EtcdWorld):
    version = "3.4"


class OwnLeaseWorld(EtcdWorld):
    """The same, but the key comes back on a lease of the agent's."""

    def table(self) -> str:
        ready = f'[[instance.ready]]\nurl = "http://127.0.0.1:{self._port}/-/work"\n'
        return super().table() + 'lease = "agent"\nlease_ttl = 3600\n' + ready

    def others_untouched(self) -> bool:
        own = f"{self._prefix}/1"
        beside = {key: value for key, value in self._before.items() if key != own}
        return {k: value for k, value in self._around().items() if k != own} == beside


OLD = pytest.param(OldEtcdWorld, marks=pytest.mark.nightly)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(1, SLICES + 1))
@pytest.mark.parametrize("kind", [EtcdWorld, OLD, OwnLeaseWorld])
def test_dies_anywhere(tmp_path: Path, kind: type[EtcdWorld], first: int) -> None:
    """Killed at any side effect, the key comes back on a lease, and no other has changed."""
    dies_anywhere(tmp_path, kind, first)
