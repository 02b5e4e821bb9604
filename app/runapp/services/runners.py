"""What runners report of themselves."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Case, F, Q, Value, When
from django.utils import timezone

from runapp.models import Runner

log = logging.getLogger(__name__)

FORGET = timedelta(days=7)
"""How long a runner that is not heard is remembered."""

CAUGHT_UP = timedelta(seconds=60)
"""How long a runner has to be heard without a gap before what is missing counts as lost.

Its reports take the way that results take, and none is older than heartbeat.EXPIRES: what was sent before a gap has
arrived then, be it out of the queue of a master's worker that was away or out of the spools of runners that were.
"""


def save_runner(message: dict[str, Any]) -> bool:
    """Take in a runner's report (runner.heartbeat); False for one that is older than what is known.

    One that RabbitMQ does not vouch for counts only while no runner of the cluster signs its reports. Reports are put
    in order by the runner's own count since its start. One of an earlier start counts only where nothing else is heard
    of the runner: then its clock was set back between the two.
    """
    signed = message.get("signed", False)
    if not signed and Runner.objects.filter(signed=True).exists():
        log.error("a report in the name of %s is refused: it does not name its sender", message["name"])
        return False
    now = timezone.now()
    started_at = datetime.fromtimestamp(message["started_at"], UTC)
    changes = {
        "said": Runner.Said(message["state"]),
        "heartbeat_at": now,
        "started_at": started_at,
        "signed": signed,
        "packages": message.get("packages", []),
        **{
            name: message[name]
            for name in (
                "number",
                "queues",
                "configured",
                "slots",
                "busy",
                "soft_time_limit",
                "hard_time_limit",
                "version",
                "share",
            )
        },
    }
    without_gap = When(heartbeat_at__range=(now - Runner.SILENT, now + Runner.SILENT), then=F("heard_since"))
    newer = (
        Q(started_at=started_at, number__lt=message["number"])
        | Q(started_at__lt=started_at)
        | Q(~Q(started_at=started_at), heartbeat_at__lt=now - Runner.SILENT)
    )
    known = Runner.objects.filter(pk=message["name"])
    if known.filter(newer).update(**changes, heard_since=Case(without_gap, default=Value(now))):
        return True
    if known.exists():
        return False
    Runner.objects.bulk_create([Runner(name=message["name"], **changes)], ignore_conflicts=True)
    return True


def caught_up() -> bool:
    """Whether all that runners had sent before a minute ago has been taken in."""
    now = timezone.now()
    heard = Runner.objects.filter(heartbeat_at__range=(now - Runner.SILENT, now))
    return heard.filter(heard_since__lte=now - CAUGHT_UP).exists()


def forget_runners() -> None:
    Runner.objects.filter(heartbeat_at__lt=timezone.now() - FORGET).delete()


def packages() -> list[dict[str, Any]]:
    """The packages that folds can import, sorted by name; an entry for each version, with the runners that have it."""
    found: dict[tuple[str, str, tuple[str, ...]], set[str]] = {}
    for runner, installed in Runner.objects.values_list("name", "packages"):
        for one in installed:
            found.setdefault((one["name"], one["version"], tuple(one["modules"])), set()).add(runner)
    return [
        {"name": name, "version": version, "modules": [*modules], "runners": sorted(runners)}
        for (name, version, modules), runners in sorted(found.items())
    ]
