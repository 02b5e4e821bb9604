"""Messages to the runners: published after the commit, and again where they got lost."""

import logging
from collections.abc import Iterable
from itertools import islice
from typing import Any

from amqp.exceptions import AccessRefused, ConnectionError, NotFound, PreconditionFailed
from celery import current_app
from django.utils import timezone
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from runapp.models import RawData, SubmissionFold
from runapp.services.confirms import together
from runner import config, control
from runner.elements import parse_elements

log = logging.getLogger(__name__)

CONFIRM_SECONDS = 10.0
"""How long the broker may take to confirm a message before it is sent again later: a request waits for it."""

TOGETHER = 100
"""Folds that are sent before the broker is waited for, and noted as queued at once: what is not is sent again."""

_NAME = "train_test_submission_fold"


class QueueError(Exception):
    """An exchange or queue is there, but not as it must be; the message says what would help."""


def open_folds() -> Any:
    return SubmissionFold.objects.filter(state__in=SubmissionFold.OPEN).select_related("databoard_s__raw_data")


def ready_folds() -> Any:
    return open_folds().filter(databoard_s__raw_data__split_state=RawData.Split.DONE)


def publish_split(raw_data_id: int) -> bool:
    raw_data = RawData.objects.get(pk=raw_data_id)
    message = {
        "raw_data_id": raw_data.pk,
        "folder": raw_data.folder,
        "name": raw_data.name,
        "target_column": raw_data.target_column,
        "custom": raw_data.custom,
        "digest": raw_data.digest,
        "workflow_elements": [] if raw_data.custom else [*parse_elements(raw_data.workflow_elements)],
        **raw_data.split_request,
    }
    name = "custom_prepare_data" if raw_data.custom else "prepare_data"
    begun = timezone.now()
    if not _send([(name, message, raw_data.split_task_id, "celery")]):
        return False
    awaited = RawData.objects.filter(pk=raw_data.pk, split_task_id=raw_data.split_task_id)
    awaited.update(split_queued_at=begun)
    return True


def publish_ready(folds: list[SubmissionFold]) -> None:
    """Queue those of the folds whose data set is split; the others are queued when it is.

    A data set that was not split when the folds were stored may be now, and who ended its split has not seen them.
    """
    data_sets = {fold.databoard_s.raw_data for fold in folds if fold.databoard_s and fold.databoard_s.raw_data}
    ready = {raw_data.pk for raw_data in data_sets if raw_data.split_state == RawData.Split.DONE}
    if others := {raw_data.pk for raw_data in data_sets} - ready:
        ready |= {*RawData.objects.filter(pk__in=others, split_state=RawData.Split.DONE).values_list("pk", flat=True)}
    publish(fold for fold in folds if fold.databoard_s and fold.databoard_s.raw_data_id in ready)


def publish(folds: Iterable[SubmissionFold]) -> int:
    """Send folds to their queues; returns how many. What a broker that is away leaves over, `mend` publishes."""
    count, folds = 0, iter(folds)
    while some := list(islice(folds, TOGETHER)):
        begun = timezone.now()  # before the first is sent: a runner may start it before its message is confirmed
        sent = _send([(_NAME, _message(fold), fold.task_id, fold.priority) for fold in some])
        if noted := [fold for fold in some if fold.task_id in sent]:
            queued = SubmissionFold.objects.filter(pk__in=[fold.pk for fold in noted], task_id__in=sent)
            queued.update(queued_at=begun)
        count += len(noted)
        if len(noted) < len(some):
            break
    return count


def _message(fold: SubmissionFold) -> dict[str, Any]:
    submission = fold.databoard_s
    assert submission is not None and submission.raw_data is not None and submission.files_path
    data_set = submission.raw_data
    return {
        "databoard_sf_id": fold.pk,
        "data": {
            "folder": data_set.folder,
            "target_column": data_set.target_column,
            "workflow_elements": [] if data_set.custom else parse_elements(data_set.workflow_elements),
            "custom": data_set.custom,
            "version": data_set.files_path.rpartition("/")[2],
            "sums": data_set.sums_digest,
        },
        "submission": submission.files_path.rpartition("/")[2],
        "submission_digest": submission.digest,
        "train_is": fold.train_is,
        "highest_test_row": fold.highest_test_row,
        "attempt": fold.attempts,
        "returns": fold.returns,
    }


def _send(tasks: list[tuple[str, dict[str, Any], str, str]]) -> set[str]:
    """Send tasks, each a name, message, id and queue; returns the ids of those that the broker has confirmed."""
    app: Any = current_app
    confirmed, declared = set[str](), set[str]()
    try:
        with together() as channel:
            confirmed = channel.confirmed
            for name, message, task_id, queue in tasks:
                # What Flower shows of it, said here: left to itself Celery makes a text of all row numbers.
                shown = f"fold {message['databoard_sf_id']}" if name == _NAME else f"data {message['name']}"
                name = f"runapp.tasks.{name}"
                # What `send_task` calls in the end; the rest of it, routes and a result, takes as long again.
                task = app.amqp.as_task_v2(task_id, name, [message], argsrepr=shown)
                declare = [] if queue in declared else [app.amqp.queues[queue]]  # the broker may have lost it
                app.amqp.send_task_message(channel.producer, name, task, queue=queue, declare=declare, retry=False)
                declared.add(queue)
                channel.sent(task_id)
            channel.wait(CONFIRM_SECONDS)
    except (OperationalError, OSError, ConnectionError, AccessRefused) as error:  # refused: while passwords are changed
        left = len(tasks) - len(confirmed)
        log.warning("%d tasks, from %s on, not queued, they will be: the broker is away (%s)", left, tasks[0][2], error)
    return {*confirmed}


def declare_queues() -> list[str]:
    """Make what is not there of exchanges, queues and bindings; returns the names of the exchanges and queues made."""
    if not config.has_broker():
        return []  # files, made when they are used
    made = []
    connection: Any
    with current_app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        queues = current_app.conf.task_queues
        for entity in [*control.exchanges(current_app), *(one for queue in queues for one in (queue.exchange, queue))]:
            try:
                if not _exists(connection, entity):
                    made.append(entity.name)
                entity(connection.default_channel).declare()
            except PreconditionFailed as error:
                raise QueueError(
                    f"{entity.name} is there with other properties ({error.reply_text}): "
                    "delete it while it is empty, and run this again"
                ) from None
    return list(dict.fromkeys(made))


def _exists(connection: Any, entity: Queue | Exchange) -> bool:
    try:
        with connection.channel() as channel:
            if isinstance(entity, Queue):
                entity(channel).queue_declare(passive=True)
            else:
                entity(channel).declare(passive=True)
    except NotFound:
        return False
    return True


def empty_queues() -> set[str]:
    """The work queues without a waiting message; none where the broker does not answer."""
    connection: Any = current_app.connection_for_read()
    try:
        with connection:
            return {queue for queue in config.QUEUES if _is_empty(connection, queue)}
    except (*connection.connection_errors, OSError) as error:
        log.warning("the queues can't be looked at: %s", error)
        return set()


def _is_empty(connection: Any, queue: str) -> bool:
    try:
        with connection.channel() as channel:
            if channel.queue_declare(queue, passive=True).message_count:
                return False
            # A quorum queue is said to hold nothing too while its leader takes more than 250 ms to answer. Only one
            # that gives no message has none; to give it back counts as a delivery, and is rare.
            message = Queue(queue, channel=channel).get()
            if message is not None:
                message.requeue()
            return message is None
    except NotFound:  # nobody has sent to it yet, or the broker lost it
        return True
