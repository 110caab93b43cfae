"""
For applications: count the work in hand exactly, and let the agent ask for it.

    from deregister_agent.app import Work
    work = Work()
    app.wsgi_app = work.wsgi(app.wsgi_app)      # Flask; or: app = work.asgi(app)

Nothing here needs more than the standard library.
"""

from deregister_agent.app.board import KINDS, Ticket
from deregister_agent.app.page import UnknownWorkError
from deregister_agent.app.work import Work

__all__ = ["KINDS", "Ticket", "UnknownWorkError", "Work"]
