"""Takes one running copy of a service out of traffic and says when it is safe to kill."""

__version__ = "0.1.0"
