"""gunicorn's worker class. gunicorn's first process imports this module too: it must not load the settings.

Otherwise the workers that a reload forks would have the old ones, with secrets that were replaced.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from datarun_web.bounds import patience

CONNECTIONS = 256
"""Connections that are served at once; others wait."""

HEAD_SECONDS = 10.0
"""Seconds that a client has for the head of a request."""


class Worker(ThreadWorker):
    """Each connection has a cheap thread. --threads is the number of requests that Django answers at once."""

    wsgi: Any

    def init_process(self) -> None:
        patience.start()
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        from datarun_web.front import Front  # which needs Django's settings

        self.wsgi = Front(self.wsgi, self.cfg.threads)

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(CONNECTIONS, "connection")

    def handle(self, conn: Any) -> Any:
        """One request, in the connection's thread. Something true if the connection is kept."""
        keep: Any = False
        patience.expect(conn.sock, seconds=HEAD_SECONDS)
        try:
            keep = super().handle(conn)
        finally:
            patience.forget(conn.sock)
            if not keep:
                # gunicorn would do so in the worker's first thread, and wait two seconds for the client.
                conn.close(graceful=True)
                conn.close = lambda graceful=False: None
        return keep
