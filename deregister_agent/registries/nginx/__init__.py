"""
Nginx upstreams: the text, the edit, the reload, and the workers that prove it.

``registry`` is the backend, with its ``options``, for one server of one upstream: its
``site``, by its ``server_address``. ``tokens`` and ``parse`` read the configuration as Nginx
does, and ``conf`` finds a server in it and changes one word. ``processes`` sees masters and
workers by their ``titles``, ``foreign_workers`` those of other masters, and ``running`` what
Nginx runs; ``main_file`` tells with which file it was started. ``reload`` runs Nginx's
commands, ``change`` carries an edit through, ``proof`` tells whether a server is proved to be
down, and ``proof_record`` keeps what was proved. ``old_workers`` names those that still
serve, and ``watch`` waits for news. ``obedience`` refuses what may not obey ``down``, by the
``known_directives`` and the ``destinations`` of server blocks. ``whose_down`` tells the
agent's own ``down`` from another's, ``look_alikes`` finds the server under other names,
``other_ways`` finds what else sends work to it, and ``other_servers`` counts who would take
over. ``advice`` warns of what will hurt, and ``remedies`` says what to do about refused files.
"""

from deregister_agent.registries.nginx.options import Options
from deregister_agent.registries.nginx.registry import build, warnings

__all__ = ["Options", "build", "warnings"]
