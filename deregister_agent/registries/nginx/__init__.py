"""
Nginx upstreams: the text, the edit, the reload, and the workers that prove it.

``tokens`` and ``parse`` read the text as Nginx does; ``conf`` finds one server and
changes one word; ``processes`` and ``reload`` watch workers, test and reload;
``foreign_workers`` finds workers of other masters; ``running_by_processes`` tells what
runs; ``proof_record`` keeps what has been proved; ``change`` carries an edit of one
``site`` through; ``old_workers`` names those that still serve; ``watch`` waits for
news; ``advice`` warns, and ``remedies`` says what to do.
"""

from deregister_agent.registries.nginx.registry import Options, build, warnings

__all__ = ["Options", "build", "warnings"]
