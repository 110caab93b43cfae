"""
Locks of real threads, whatever gevent or eventlet has put in place of ``threading``.

Their own locks work among the green threads of one real thread only: a real thread
that meets one (a pool of gRPC, gevent's threadpool, a client written in C) hangs.
Neither replaces this class of ``_thread`` (gevent/thread.py and eventlet/green/thread.py
list what they do replace). Nothing that waits may stand inside of such a lock: green
threads of one real thread are all its owner.
"""

from _thread import RLock

__all__ = ["RLock"]
