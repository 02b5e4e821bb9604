"""Waiting for a fold's end within a request, without taking the web server's threads from the others."""

import threading
import time

from django.conf import settings

from runapp.models import SubmissionFold

FIRST_PAUSE, LAST_PAUSE = 0.1, 1.0
"""Seconds between two looks at the state: a short fold is told at once, a long one costs a query a second."""

RETRY_AFTER = 5
"""Seconds after which one may ask again who could not wait."""

places = threading.BoundedSemaphore(settings.MAX_WAITERS)


def wait_for_end(pk: int, seconds: float) -> bool:
    """Return when fold pk has ended or is gone, or after `seconds`; False, at once, where as many wait as may.

    Between two looks nothing of the database is held, a transaction or a lock.
    """
    if not places.acquire(blocking=False):
        return False
    try:
        deadline = time.monotonic() + seconds
        pause = FIRST_PAUSE
        while SubmissionFold.objects.filter(pk=pk, state__in=SubmissionFold.OPEN).exists():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LAST_PAUSE)
    finally:
        places.release()
    return True
