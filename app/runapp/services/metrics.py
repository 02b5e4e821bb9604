"""What an operator alarms on, in the text format of Prometheus, made when it is asked for.

Counted in indices (runapp.models), so that a look does not read the rows, which are large.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from amqp.exceptions import NotFound
from celery import current_app
from django.db.models import Count, F, Min, Sum
from django.utils import timezone
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from runapp.models import RawData, Runner, SubmissionFold
from runapp.services.waiting import waiting_folds
from runner import config
from runner.jobs import Reason
from runner.look import Look

BROKER_SECONDS = 2.0
"""How long the broker may take to tell the length of its queues."""

STATES = ("up", "no share", "stopping", "silent", "stopped")


def metrics() -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector())
    return generate_latest(registry)


class _Collector(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from _queues()
        yield from _folds()
        yield from _runners()
        yield from _broker()

    def describe(self) -> list[Any]:
        return []


def _gauge(name: str, text: str, values: dict[Any, float], *labels: str) -> GaugeMetricFamily:
    """values: by the value of the label, or a tuple of several; {(): value} without one."""
    family = GaugeMetricFamily(f"datarun_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key if isinstance(key, tuple) else (key,), value)
    return family


def _queues() -> Iterator[GaugeMetricFamily]:
    now = timezone.now()
    folds = waiting_folds().order_by().values_list("priority").annotate(Count("pk"), Min("queued_at"))
    waiting: dict[str, tuple[int, Any]] = dict.fromkeys(("H", "L"), (0, None))
    waiting |= {queue: (count, oldest) for queue, count, oldest in folds}
    splits = RawData.objects.filter(split_state=RawData.Split.QUEUED, split_queued_at__isnull=False)
    waiting["celery"] = tuple(splits.aggregate(count=Count("pk"), oldest=Min("split_queued_at")).values())
    yield _gauge(
        "queue_waiting",
        "Folds that are queued and not begun; for celery: splits that are queued and not ended",
        {queue: count for queue, (count, _) in waiting.items()},
        "queue",
    )
    yield _gauge(
        "queue_oldest_seconds",
        "How long the oldest of them has been in the queue; 0 for none",
        {queue: (now - oldest).total_seconds() if oldest else 0 for queue, (_, oldest) in waiting.items()},
        "queue",
    )
    unqueued = SubmissionFold.objects.filter(state="TODO", started_at__isnull=True, queued_at__isnull=True)
    yield _gauge(
        "folds_not_queued",
        "Folds that wait for their data set's split, or for the broker",
        {(): unqueued.filter(priority__in=("H", "L")).count()},
    )


def _folds() -> Iterator[GaugeMetricFamily]:
    folds = SubmissionFold.objects.order_by()
    states: dict[Any, float] = dict.fromkeys(SubmissionFold.State.values, 0)
    states |= dict(folds.values_list("state").annotate(Count("pk")))
    yield _gauge("folds", "Folds by state", states, "state")
    reasons: dict[Any, float] = dict.fromkeys([reason.value for reason in Reason], 0)
    reasons |= dict(folds.filter(state="ERROR").values_list("error_reason").annotate(Count("pk")))
    yield _gauge("folds_failed", "Folds in state ERROR by who is to blame", reasons, "reason")
    due = folds.filter(deadline__lt=timezone.now()).values_list("state", flat=True)
    late = sum(state in SubmissionFold.OPEN for state in due)  # in a query SQLite would look at all open folds first
    yield _gauge("results_late", "Folds that run and whose result should have come", {(): late})
    retries = folds.filter(attempts__gt=1).aggregate(sum=Sum(F("attempts") - 1))["sum"] or 0
    yield _gauge("fold_retries", "Attempts beyond the first of all folds that there are", {(): retries})
    splits: dict[Any, float] = dict.fromkeys(("NONE", "QUEUED", "DONE", "ERROR"), 0)
    for state, count in RawData.objects.order_by().values_list("split_state").annotate(Count("pk")):
        splits[state or "NONE"] = count
    yield _gauge("splits", "Data sets by the state of their split", splits, "state")


def _runners() -> Iterator[GaugeMetricFamily]:
    now = timezone.now()
    runners = list(Runner.objects.all())
    states: dict[Any, float] = dict.fromkeys(STATES, 0)
    for runner in runners:
        states[runner.state] += 1
    yield _gauge("runners", "Runners by state", states, "state")
    each: dict[str, tuple[str, Callable[[Runner], float]]] = {
        "runner_up": ("1 where it takes work", lambda runner: runner.state == "up"),
        "runner_heard_seconds": ("Since its last report", lambda runner: (now - runner.heartbeat_at).total_seconds()),
        "runner_slots": ("Folds that it runs at once", lambda runner: runner.slots),
        "runner_busy": ("Slots that run something, as last reported", lambda runner: len(runner.busy)),
    }
    for name, (text, value) in each.items():
        yield _gauge(name, text, {runner.name: value(runner) for runner in runners}, "runner")


def _broker() -> Iterator[GaugeMetricFamily]:
    lengths: dict[Any, float] = {}
    with suppress(Exception):  # whatever is wrong with the broker, broker_up says it and the rest is told
        lengths = _queue_lengths(BROKER_SECONDS)
    yield _gauge("broker_up", "1 where the broker tells the length of its queues", {(): bool(lengths)})
    yield _gauge("queue_messages", "Messages that no worker holds", lengths, "queue")


def _look_at_queues() -> dict[Any, float]:
    connection: Any
    found = {}
    with current_app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=0)
        for queue in (*config.QUEUES, config.MASTER_QUEUE):
            try:
                with connection.channel() as channel:
                    found[queue] = channel.queue_declare(queue, passive=True).message_count
            except NotFound:
                continue
    return found


_queue_lengths = Look(_look_at_queues)
