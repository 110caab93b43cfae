"""
Nginx upstreams: the text, the edit, the reload, and the workers that prove it.

``registry`` is the backend, for one server of one upstream: its ``site``, by its
``server_address``. ``tokens`` and ``parse`` read the configuration as Nginx does, and
``conf`` finds a server in it and changes one word. ``processes`` sees masters and
workers, ``foreign_workers`` those of other masters, and ``running`` what Nginx runs.
``reload`` runs Nginx's commands, ``change`` carries an edit through, ``proof`` tells
whether a server is proved to be down, and ``proof_record`` keeps what was proved.
``old_workers`` names those that still serve, and ``watch`` waits for news.
``whose_down`` tells the agent's own ``down`` from another's, and ``look_alikes`` finds the
server under other names. ``advice`` warns of what will hurt, and ``remedies`` says what
to do about refused files.
"""

from deregister_agent.registries.nginx.registry import Options, build, warnings

__all__ = ["Options", "build", "warnings"]
