"""Write keys into etcd that are not there: ``python -m compose.register URL KEY=VALUE ...``."""

import base64
import json
import sys
import urllib.request


def put(url: str, key: str, value: str) -> None:
    """Put one key, in a transaction that does so only if it is absent."""
    where, what = (base64.b64encode(text.encode()).decode() for text in (key, value))
    wish = {
        "compare": [{"key": where, "target": "CREATE", "create_revision": "0"}],
        "success": [{"request_put": {"key": where, "value": what}}],
    }
    with urllib.request.urlopen(f"{url}/v3/kv/txn", json.dumps(wish).encode(), 5):
        pass


if __name__ == "__main__":
    for each in sys.argv[2:]:
        put(sys.argv[1], *each.split("="))
