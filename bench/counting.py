"""gunicorn's configuration in the benchmarks: each SQL query adds one byte to the file that BENCH_QUERIES names."""

import os
from typing import Any


def post_worker_init(worker: Any) -> None:
    from django.db.backends.signals import connection_created

    file = os.open(os.environ["BENCH_QUERIES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def count(execute: Any, *arguments: Any) -> Any:
        os.write(file, b".")
        return execute(*arguments)

    def watch(connection: Any, **_: Any) -> None:
        if count not in connection.execute_wrappers:
            connection.execute_wrappers.append(count)

    connection_created.connect(watch, weak=False)
