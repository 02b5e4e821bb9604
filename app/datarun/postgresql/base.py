"""What Django loads of a database backend."""

import select

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    def is_usable(self) -> bool:
        """Whether a connection that was idle is still there, at the price of a system call.

        A server that is gone has closed the connection, which shows as something to read. The server is asked, as by
        Django, where something is to be read or an error occurred.
        """
        if self.connection is None or self.errors_occurred:
            return super().is_usable()
        look = select.poll()
        look.register(self.connection.fileno(), select.POLLIN)
        return not look.poll(0) or super().is_usable()
