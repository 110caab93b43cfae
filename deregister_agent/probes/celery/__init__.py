"""What a Celery worker has in hand: the answers of the worker, and what they leave out."""

from deregister_agent.probes.celery.options import Options
from deregister_agent.probes.celery.probe import build

__all__ = ["Options", "build"]
