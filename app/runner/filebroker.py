"""The broker of the embedded default: kombu's queues in files, with the races between processes closed.

kombu's own transport (as of 5.7) lists a message before it is written, so that a reader may take half of it,
and reads through the machine's temporary folder. Here a message appears by a rename and is taken by a rename.
Messages of the transport option `kept_queue`, which are results, are kept until they are acknowledged, so that
give_back finds what a worker held that died. What a runner had taken is queued anew from the database.
"""

import fcntl
import json
import os
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem, virtual

NAME = "datarun-files"

_HELD = ".held-"


class Channel(filesystem.Channel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._held: dict[str, Path] = {}
        super().__init__(*args, **kwargs)

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        folder = self._folder(queue)
        name = f"{time.time_ns():020}_{uuid.uuid4().hex}"
        part = folder / f".{name}"
        part.write_text(json.dumps(payload))
        part.rename(folder / name)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        folder = self._folder(queue)
        for name in sorted(name for name in os.listdir(folder) if not name.startswith(".")):
            taken = folder / f"{_HELD}{name}"
            try:
                (folder / name).rename(taken)
            except FileNotFoundError:  # another worker was first
                continue
            payload: dict[str, Any] = json.loads(taken.read_text())
            if queue == self.transport_options.get("kept_queue"):
                self._held[payload["properties"]["delivery_tag"]] = taken
            else:
                taken.unlink()
            return payload
        raise Empty

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        super().basic_ack(delivery_tag, multiple)
        self._let_go(delivery_tag)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        super().basic_reject(delivery_tag, requeue)  # with requeue it has put a copy into the queue
        self._let_go(delivery_tag)

    def close(self) -> None:
        super().close()  # it has put copies of what is not acknowledged into their queues
        for delivery_tag in [*self._held]:
            self._let_go(delivery_tag)

    def _let_go(self, delivery_tag: str) -> None:
        if (path := self._held.pop(delivery_tag, None)) is not None:
            path.unlink(missing_ok=True)

    def _size(self, queue: str) -> int:
        return sum(not name.startswith(".") for name in os.listdir(self._folder(queue)))

    def _purge(self, queue: str) -> int:
        names = os.listdir(self._folder(queue))
        for name in names:
            (self._folder(queue) / name).unlink(missing_ok=True)
        return len(names)

    def _folder(self, queue: str) -> Path:
        """A folder a queue: a look at one does not cost what waits in the others."""
        folder = Path(self.data_folder_in) / queue
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _queue_bind(self, *args: Any) -> None:
        with (Path(self.control_folder) / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            super()._queue_bind(*args)


class Transport(filesystem.Transport):
    Channel = Channel
    # Its own state, not the one that all filesystem transports of a process share.
    global_state = virtual.BrokerState()


def give_back(folder: Path) -> None:
    """Put back into the kept queue of this folder what a worker held that has died; no other may serve it."""
    for path in folder.glob(f"{_HELD}*"):
        path.rename(path.with_name(path.name.removeprefix(_HELD)))


TRANSPORT_ALIASES[NAME] = f"{__name__}:Transport"
