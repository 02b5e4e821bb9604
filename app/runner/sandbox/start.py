"""The one place that decides whether submissions are confined. Supervisor: trusted, outside."""

import os

from runner.jobs import Limits
from runner.sandbox.executor import Executor
from runner.sandbox.plain import PlainExecutor

AnyExecutor = Executor | PlainExecutor


def executor(limits: Limits, slots: int) -> AnyExecutor:
    """One a worker process. Raises selftest.Refusal where a line of defence is missing.

    DATARUN_SANDBOX in the environment: `on`, the default, or `off`; anything else is a ValueError.
    """
    setting = os.environ.get("DATARUN_SANDBOX", "on")
    if setting not in ("on", "off"):
        raise ValueError(f"DATARUN_SANDBOX is {setting!r}: use on or off")
    return PlainExecutor(limits) if setting == "off" else Executor(limits, slots)
