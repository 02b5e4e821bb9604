"""What runners report of themselves."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Case, F, Q, Value, When
from django.utils import timezone

from runapp.models import Runner

FORGET = timedelta(days=7)
"""How long a runner that is not heard is remembered."""

MAX_PACKAGES = 500_000
"""Bytes of JSON that a runner's list of packages may take; a longer list is ignored. 100 packages take 7,000."""


CAUGHT_UP = timedelta(seconds=60)
"""How long a runner has to be heard without a gap before what is missing counts as lost.

Its reports take the way that results take, and none is older than heartbeat.EXPIRES: what was sent before a gap has
arrived then, be it out of the queue of a master's worker that was away or out of the spools of runners that were.
"""


def save_runner(message: dict[str, Any]) -> bool:
    """Take in a runner's report (runner.heartbeat); False for one that is older than what is known.

    Reports are put in order by the runner's own count since its start. One of an earlier start counts only where
    nothing else is heard of the runner: then its clock was set back between the two.
    """
    now = timezone.now()
    started_at = datetime.fromtimestamp(message["started_at"], UTC)
    changes = {
        "said": Runner.Said(message["state"]),
        "heartbeat_at": now,
        "started_at": started_at,
        "packages": _well_formed(message.get("packages")),
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


def _well_formed(packages: Any) -> list[dict[str, Any]]:
    """The packages of a report (runner.packages). A runner may be in wrong hands, and all users read its list."""

    def is_text(value: Any) -> bool:
        return isinstance(value, str) and value.isprintable()  # PostgreSQL stores no NUL, and no half of a pair

    if not isinstance(packages, list) or len(json.dumps(packages)) > MAX_PACKAGES:
        return []
    return [
        {name: one[name] for name in ("name", "version", "modules")}
        for one in packages
        if isinstance(one, dict)
        and is_text(one.get("name"))
        and is_text(one.get("version"))
        and isinstance(one.get("modules"), list)
        and all(map(is_text, one["modules"]))
    ]
