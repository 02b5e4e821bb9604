"""How many descriptors each process may have open, and have in flight. Supervisor: trusted, outside.

The kernel counts for each user the descriptors that are sent and not yet received, in all its processes together. Who
has more in flight than its own RLIMIT_NOFILE can send none (ETOOMANYREFS). So a fold's limit is far below that of the
supervisor and of the zygotes: they can send where folds no longer can.
"""

import contextlib
import resource

_FOLD = 1024
_LEAST = 256
_ONE_MESSAGE = 253
"""The kernel checks before it counts: each thread may have one message's descriptors more in flight than its limit."""


def share(slots: int, processes: int) -> int:
    """Raise this process's limit, which its children inherit. Returns the limit of a fold's processes.

    processes: of a fold, threads included. Raises ValueError where the host's limit is too low for both.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (_FOLD + slots * processes * _ONE_MESSAGE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with contextlib.suppress(ValueError, OSError):  # root may
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            hard = wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    fold = min(_FOLD, most // 4)
    if fold < _LEAST:
        raise ValueError(f"a process may have {hard} open files at most, {4 * _LEAST} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return fold
