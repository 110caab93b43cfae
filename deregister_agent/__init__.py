"""
Takes one running copy of a service out of traffic and says when it is safe to kill.

model.py     the words: Phase, Drain, Sighting, Reading; frozen, no I/O
drain.py     next_phase(), is_safe_to_kill(), is_restored(): the machine, pure
ports.py     the contracts: Registry, IdleProbe, Notifier; ReadyCheck, ProcessFinder
errors.py    what can go wrong, as sentences
status.py    the status of an instance and the record of a drain, as JSON shows them
wiring.py    from a configuration to an agent: the only module that imports everything
engine/      one instance through its drains: act, look, decide, write down
journal/     what was decided, on disk before it is acted on
registries/  what sends work to instances: one file or one folder per kind
probes/      what an app still has in hand: one file or one folder per kind
notifiers/   who is told: one file or one folder per kind
net/         calls that end: HTTP, gRPC
host/        this machine: sockets, processes, programs, files, addresses, clock
config/      one TOML file, validated as a whole, mistakes in words
api/         the HTTP API and its page
cli/         the command line
app/         for applications: count the work in hand (standard library only)
demo/        the runnable demonstration
"""

__version__ = "0.1.0"
