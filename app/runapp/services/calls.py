"""The calls of webhooks: rows that a fold's end leaves, delivered beside the results and apart from one another."""

import json
import logging
import time
from datetime import timedelta
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.utils import timezone

from runapp import webhooks
from runapp.models import Call, SubmissionFold

log = logging.getLogger(__name__)

PAUSES = (10, 60, 300, 900, 3600, 2 * 3600, 4 * 3600, 6 * 3600, 10 * 3600)
"""Seconds before each further attempt: ten in all, over about a day."""

CLAIM = timedelta(seconds=120)
"""After which an attempt counts as lost with its process: longer than a call and the look for its name may take."""

THREADS = 8
"""Hosts that are called at once, each by one call."""

PAUSE = 0.5
"""Seconds between two looks for calls that are due."""


class Deliverer:
    """Delivers calls that are due. One thread has the database; each call has one of its own, without it."""

    def __init__(self) -> None:
        self.busy: dict[str, Call] = {}  # by host
        self._ended: SimpleQueue[tuple[Call, str]] = SimpleQueue()

    def start(self) -> None:
        Thread(target=self._run, name="calls", daemon=True).start()

    def step(self, wait: float = PAUSE) -> None:
        """Write down how calls ended, waiting so many seconds for the next to end, and begin those that are due."""
        try:
            call, why = self._ended.get(timeout=wait) if wait else self._ended.get_nowait()
        except Empty:
            pass
        else:
            self._settle(call, why)
        self._begin()

    def _run(self) -> None:
        while True:
            try:
                self.step()
            except Exception:
                # The database is away, for the most part. What was claimed is tried again when its claim expires.
                log.exception("calls of webhooks wait")
                connection.close()
                time.sleep(1)

    def _begin(self) -> None:
        while len(self.busy) < THREADS:
            due = Call.objects.filter(due_at__lte=timezone.now()).exclude(host__in=[*self.busy])
            call = due.order_by("due_at").first()
            if call is None:
                return
            if not call.claim(timezone.now() + CLAIM):
                continue
            fold = _fold(call)
            if fold is None:
                call.delete()
                continue
            self.busy[call.host] = call
            Thread(target=self._send, args=(call, fold), daemon=True).start()

    def _send(self, call: Call, fold: dict[str, Any]) -> None:
        why = "it failed"
        try:
            url, secret = fold.pop("databoard_s__webhook"), fold.pop("databoard_s__webhook_secret")
            body = json.dumps(fold | {"sent_at": int(time.time())}, cls=DjangoJSONEncoder).encode()
            webhooks.send(url, secret, str(call.pk), body)
            why = ""
        except webhooks.CallError as error:
            why = str(error)
        except Exception:
            log.exception("fold %s: its webhook was not called", call.databoard_sf_id)
        finally:
            self._ended.put((call, why))

    def _settle(self, call: Call, why: str) -> None:
        """why: it failed; empty where it arrived."""
        del self.busy[call.host]
        about = f"fold {call.databoard_sf_id}: its end, task {call.task_id}, to {call.host}"
        if not why:
            log.info("%s: told", about)
            Call.objects.filter(pk=call.pk).delete()
        elif call.attempts > len(PAUSES):
            log.warning("%s: given up after %s attempts, the last: %s", about, call.attempts, why)
            Call.objects.filter(pk=call.pk).delete()
        else:
            pause = PAUSES[call.attempts - 1]
            log.info("%s: attempt %s failed, the next in %s s: %s", about, call.attempts, pause, why)
            call.postpone(timezone.now() + timedelta(seconds=pause))


def _fold(call: Call) -> dict[str, Any] | None:
    """What a webhook is told, with its address and secret; None where the fold is gone, replaced, or has no webhook."""
    fields = ("databoard_sf_id", "databoard_s", "state", "error_reason", "finished_at", "task_id")
    return (
        SubmissionFold.objects.filter(pk=call.databoard_sf_id, task_id=call.task_id, databoard_s__webhook__gt="")
        .values(*fields, "databoard_s__webhook", "databoard_s__webhook_secret")
        .first()
    )
