"""Celery entry points of a runner: resolve the message, run it, send the result to the master.

They carry the names of `runapp.tasks`, where the master sees them: a runner has no Django.
"""

import contextlib
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Event, Lock, Timer
from typing import TYPE_CHECKING, Any, NoReturn

from celery import Task, current_app, shared_task
from celery.exceptions import Ignore
from celery.signals import celeryd_after_setup, task_prerun, worker_ready, worker_shutdown
from celery.states import STARTED
from celery.utils.log import get_task_logger

from runner import config, copies, heartbeat, intake, payloads, revoked, share, spool
from runner.jobs import STATES, DataSet, Failure, FoldJob, Outcome, Reason, SplitJob, version_name

if TYPE_CHECKING:
    from runner.sandbox.start import AnyExecutor

log = get_task_logger(__name__)

CURRENT = "current"
"""The symbolic link in a data set's folder to the version that folds use."""

RAW = "raw"
"""The version of a data set that holds the files as they were sent."""

PROGRESS_AFTER = 0.2
"""Seconds of a fold's running after which its progress is reported: shorter folds report their end alone."""

MAX_DELIVERIES = 3
"""How often the broker gives a message to runners before they hand it back to the master, which sends it anew: far

below the broker's own limit (roles/rabbitmq), past which the message would be gone.
"""

MAX_ATTEMPTS = 3
"""How often a fold is tried, as the master has it in its settings."""

CONFIRM_SECONDS = 10.0
"""How long the broker may take to confirm a result before it is sent again."""

PROGRESS_SECONDS = 2.0
"""How long it may take to confirm progress: who watches over the fold's limits waits for it."""

# For a runner whose own disk is full. A result is worth waiting for: the broker may be away for minutes.
RETRY: dict[str, float] = {"max_retries": 1000, "interval_start": 0, "interval_step": 0.5, "interval_max": 5}
ONCE: dict[str, float] = {
    "max_retries": 1,
    "interval_start": 0,
}  # with a fresh connection, where the old one had died unseen

WORK = "runapp.tasks.train_test_submission_fold", "runapp.tasks.prepare_data", "runapp.tasks.custom_prepare_data"


class SplitError(Exception):
    """A data set could not be split; shown by AsyncResult(task_id).get()."""


class Outdated(Exception):
    """The data set has another version than the message names."""


class MissingOnShare(Exception):
    """The shared disk does not show what the message names."""


@cache
def executor() -> "AnyExecutor":
    """What runs this worker's folds."""
    from runner.sandbox import start  # pandas and scikit-learn: the master, which sends tasks, needs neither

    return start.executor(config.limits(), config.slots())


@cache
def kept() -> spool.Spool:
    """What this worker must not forget."""
    return spool.Spool(config.spool(), _publish)


@celeryd_after_setup.connect
def _start_executor(instance: Any, **_: Any) -> None:
    """Before the first fold is taken: a worker that can't keep its promises does not run."""
    if not {*config.QUEUES} & {*instance.app.amqp.queues.consume_from}:
        return
    if instance.pool_cls.__module__ != "celery.concurrency.thread":
        _end("a worker that serves L, H or celery runs with -P threads: one thread waits for each fold")
    config.set_slots(instance.concurrency)
    try:
        copies.copies()
        executor()
        kept().start()  # before the first fold: who counts what is lost may have something to say about the next
    except OSError as error:  # a disk that is full now
        _end(str(error), code=1)
    except Exception as error:
        _end(str(error))


@worker_ready.connect
def _take_work(sender: Any, **_: Any) -> None:
    heartbeat.start(sender)
    intake.start(sender)


def _end(why: str, code: int = config.EXIT_REFUSED) -> NoReturn:
    """End the worker: an exception of a signal's receiver would be logged, and the worker go on.

    code: any but EXIT_REFUSED has the supervisor start it again.
    """
    print(f"datarun: this runner can't run submissions. {why}", file=sys.stderr, flush=True)
    raise SystemExit(code)


@worker_shutdown.connect
def _close_executor(**_: Any) -> None:
    if executor.cache_info().currsize:
        executor().close()
    if kept.cache_info().currsize:
        kept().flush()
        kept().close()


@task_prerun.connect
def _look_up(task: Any, task_id: str, **_: Any) -> None:
    """Before Celery notes that the task has started, over what the master noted."""
    if task.name in WORK and _is_redelivered(task):
        task.request.revoked = revoked.is_revoked(task_id)


def _is_redelivered(task: Task) -> bool:
    return bool((task.request.delivery_info or {}).get("redelivered"))


def _deliveries(task: Task) -> int:
    """How often this message was given to a runner before; quorum queues count it, the embedded default does not."""
    return int(task.request.get("x-delivery-count") or 0)


def _check_delivery(task: Task, of: dict[str, int]) -> None:
    """End a task, acknowledged, whose message came back although nothing is left to do, or came back too often.

    of: {databoard_sf_id or raw_data_id: number}.
    """
    assert task.request.id
    if task.request.id in _running:
        log.info("task %s was given again: it runs here", task.request.id)
        raise Ignore
    if not _is_redelivered(task):
        return
    if kept().knows(task.request.id):
        log.info("task %s was given again: its result is sent, or will be", task.request.id)
        raise Ignore
    if task.request.get("revoked"):
        log.warning("task %s was given again, and is dropped: the master awaits it no more", task.request.id)
        revoked.revoke(task.request.id)  # Celery has written over it
        raise Ignore
    if (deliveries := _deliveries(task)) >= MAX_DELIVERIES:
        log.warning("task %s was given %d times before: the master is to send it anew", task.request.id, deliveries)
        _send(task, spool.RETURNED, of | {"task_id": task.request.id})
        raise Ignore


_running: set[str] = set()
"""Tasks whose result this process will send. The broker gives them again when it has lost the connection."""


@contextlib.contextmanager
def _runs(task_id: str) -> Iterator[None]:
    _running.add(task_id)
    try:
        yield
    finally:
        _running.discard(task_id)


def _give_back(task_id: str, why: Exception) -> NoReturn:
    _running.discard(task_id)  # who gets it again runs it, this process too
    share.give_back(why)


_last_attempt = Lock()


@contextlib.contextmanager
def _alone(message: dict[str, Any], deliveries: int) -> Iterator[None]:
    """Last attempts run one at a time: of two folds on a runner that dies, not both are given up."""
    with _last_attempt if message.get("attempt", 1) + deliveries >= MAX_ATTEMPTS else contextlib.nullcontext():
        yield


@shared_task(name="runapp.tasks.train_test_submission_fold", bind=True, track_started=False)
def train_test_submission_fold(self: Task, message: dict[str, Any]) -> dict[str, Any]:
    """Train and test one fold.

    message: databoard_sf_id, data (folder below DIR_DATA, target_column, workflow_elements, custom), submission
    (folder below DIR_SUBMISSION), train_is (see payloads), highest_test_row, attempt (which one this is).
    """
    _check_delivery(self, {"databoard_sf_id": message["databoard_sf_id"]})
    assert self.request.id
    with _runs(self.request.id), _alone(message, _deliveries(self)):
        progress = _Progress(self, message["databoard_sf_id"])
        with kept().begun(progress.task_id, spool.LOST, progress.record()) as settle:
            progress.start(settle)
            return _run_fold(self, message, progress)


def _run_fold(self: Task, message: dict[str, Any], progress: "_Progress") -> dict[str, Any]:
    own_fault = True
    try:
        job = _fold_job(message)
        with copies.local(job.data.folder, message["data"].get("sums", "")) as folder:
            job = replace(job, data=replace(job.data, folder=folder))
            outcome = executor().run_fold(job, progress.stage)
    except Outdated:
        progress.close()
        log.info("fold %s: its data set was split again, the master is to send it anew", message["databoard_sf_id"])
        _send(self, spool.RETURNED, {"databoard_sf_id": message["databoard_sf_id"], "task_id": progress.task_id})
        raise Ignore from None
    except (MissingOnShare, copies.CopyError, payloads.PayloadError) as error:
        progress.close()
        if not share.is_there():
            _give_back(progress.task_id, error)
        outcome = Outcome(failure=Failure(Reason.INFRASTRUCTURE, "train", str(error)))
        # What a first attempt misses may have been replaced or deleted since it was sent; a later one was just sent.
        own_fault = isinstance(error, copies.CopyError) or message.get("attempt", 1) > 1
    except Exception as error:  # a fault of the runner itself must not leave the fold without a verdict
        log.exception("fold %s", message["databoard_sf_id"])
        outcome = Outcome(failure=Failure(Reason.INFRASTRUCTURE, "train", f"the runner failed: {error!r}"))
    finally:
        progress.close()
    try:
        result = _fold_result(outcome, progress.task_id)
    except OSError as error:  # the shared disk is full or gone: no room for large predictions
        log.exception("fold %s", message["databoard_sf_id"])
        outcome = Outcome(failure=Failure(Reason.INFRASTRUCTURE, "test", f"the result could not be stored: {error}"))
        result = _fold_result(outcome, progress.task_id)
    if own_fault:
        _judge_runner(outcome)
    _send(self, "runapp.tasks.save_fold", result | progress.record() | {"finished_at": time.time()})
    return {"databoard_sf_id": message["databoard_sf_id"], "state": "ERROR" if outcome.failure else outcome.state}


def _judge_runner(outcome: Outcome) -> None:
    """Before the result is sent, which may bring the next attempt at once."""
    if outcome.failure and outcome.failure.reason == Reason.INFRASTRUCTURE:
        intake.rest(outcome.failure.message)
    else:
        intake.worked()


@shared_task(name="runapp.tasks.prepare_data", bind=True, throws=(SplitError,))
def prepare_data(self: Task, message: dict[str, Any]) -> dict[str, int]:
    """Split a standard data set into train.csv and test.csv; returns their numbers of rows.

    message: raw_data_id, folder (below DIR_DATA), name, target_column, custom, held_out_test, random_state,
    workflow_elements.
    """
    return _split(self, message)


@shared_task(name="runapp.tasks.custom_prepare_data", bind=True, throws=(SplitError,))
def custom_prepare_data(self: Task, message: dict[str, Any]) -> dict[str, int]:
    """Split a custom data set with its own prepare_data; returns the numbers of train and test rows."""
    return _split(self, message)


def _split(task: Task, message: dict[str, Any]) -> dict[str, int]:
    assert task.request.id
    of = {"raw_data_id": message["raw_data_id"]}
    _check_delivery(task, of)
    mark = of | {"task_id": task.request.id, "runner": task.request.hostname, "started_at": time.time()}
    with _runs(task.request.id), kept().begun(task.request.id, spool.LOST, mark) as settle:
        settle()
        return _run_split(task, message)


def _run_split(task: Task, message: dict[str, Any]) -> dict[str, int]:
    assert task.request.id
    sums = ""
    try:
        folder = _on_share(config.dir_data(), message["folder"])
        job = SplitJob(
            source=_on_share(folder, RAW),
            target=folder / version_name(task.request.id),
            name=message["name"],
            target_column=message["target_column"],
            custom=message["custom"],
            held_out_test=message.get("held_out_test", 0.0),
            random_state=message.get("random_state", 42),
            workflow_elements=tuple(message["workflow_elements"]),
        )
        with copies.workspace(job, message.get("digest", "")) as own:
            outcome = executor().run_split(own)
            if outcome.failure is None:
                sums = copies.publish(own.target, job.target)
    except (MissingOnShare, copies.CopyError) as error:
        if not share.is_there():
            _give_back(task.request.id, error)
        outcome = Outcome(failure=Failure(Reason.INFRASTRUCTURE, "split", str(error)))
    except Exception as error:  # a fault of the runner itself must not leave the split without an end
        log.exception("data set %s", message["raw_data_id"])
        outcome = Outcome(failure=Failure(Reason.INFRASTRUCTURE, "split", f"the runner failed: {error!r}"))
    _judge_runner(outcome)
    failure = outcome.failure
    result = {
        "raw_data_id": message["raw_data_id"],
        "task_id": task.request.id,
        "runner": task.request.hostname,
        "rows": outcome.rows,
        "sums": sums,
        "reason": failure and failure.reason,
        "log": _log([failure.log] if failure else [], outcome),
    }
    _send(task, "runapp.tasks.save_split", result)
    if failure or not outcome.rows:
        raise SplitError(result["log"])
    return {"train_rows": outcome.rows[0], "test_rows": outcome.rows[1]}


def _fold_job(message: dict[str, Any]) -> FoldJob:
    data = message["data"]
    root = _on_share(config.dir_data(), data["folder"])
    # Resolved now, so that a fold keeps the version that it starts with when the data set is split again.
    folder = _on_share(root, CURRENT).resolve()
    known = data.get("version")
    if data.get("sums") and folder.name != known:
        # The master alone says which files a version has. Either the data set was split again, or the link is forged.
        if not message.get("returns"):
            raise Outdated
        folder = _on_share(root, known)
    return FoldJob(
        data=DataSet(
            folder=folder,
            target_column=data["target_column"],
            workflow_elements=tuple(data["workflow_elements"]),
            custom=data["custom"],
        ),
        submission=_on_share(config.dir_submission(), message["submission"]),
        train_is=payloads.unpack(message["train_is"], "<i8", config.max_data_bytes()),
        highest_test_row=message["highest_test_row"],
        submission_digest=message.get("submission_digest", ""),
    )


def _on_share(parent: Path, name: str) -> Path:
    path = parent / name
    if name in ("", "..") or Path(name).name != name or not path.is_dir():
        raise MissingOnShare(f"{name} is not on the shared disk as this runner sees it: is the disk mounted?")
    return path


def _fold_result(outcome: Outcome, task_id: str) -> dict[str, Any]:
    result: dict[str, Any] = dict(outcome.measures)
    result["log_messages"] = _log([*([outcome.failure.log] if outcome.failure else []), *outcome.notes], outcome)
    result["state"] = "ERROR" if outcome.failure else outcome.state
    result["error_reason"] = outcome.failure.reason if outcome.failure else ""
    for name in ("full_train_predictions", "test_predictions"):
        predictions = getattr(outcome, name)
        if predictions is not None:
            # A name of this run's own: a task that is delivered twice must not change what the first run stored.
            result[name] = payloads.pack(predictions, f"{task_id}.{name}.{secrets.token_hex(4)}")
            result[f"{name}_shape"] = [*predictions.shape]
    return result


def _log(lines: list[str], outcome: Outcome) -> str:
    """These lines, and below them what the code printed."""
    return "\n".join([*lines, "Output:", outcome.output] if outcome.output else lines)


class _Progress:
    """Tells the master, and who looks at its task, how far a fold is, once it has run for PROGRESS_AFTER."""

    def __init__(self, task: Task, databoard_sf_id: int) -> None:
        assert task.request.id
        # Kept here: the timer's thread does not see the request.
        self._task, self._id = task, databoard_sf_id
        self.task_id, self._runner = task.request.id, task.request.hostname
        self._started = time.time()
        self._state = "TODO"
        self._measures: dict[str, float] = {}
        self._due = Event()
        self._noting, self._ended = Lock(), False
        self._settle: Callable[[], None] = lambda: None
        self._timer = Timer(PROGRESS_AFTER, self._begin)

    def start(self, settle: Callable[[], None]) -> None:
        """settle: makes the mark of this fold outlive a power cut, once it has run for PROGRESS_AFTER."""
        self._settle = settle
        self._timer.start()

    def stage(self, stage: str, measures: dict[str, float]) -> None:
        self._state = STATES[stage]
        self._measures |= measures
        if self._state != "TESTED" and self._due.is_set():
            self._report()

    def close(self) -> None:
        self._timer.cancel()
        with self._noting:
            self._ended = True

    def record(self) -> dict[str, Any]:
        return {
            "databoard_sf_id": self._id,
            "task_id": self.task_id,
            "runner": self._runner,
            "started_at": self._started,
        }

    def _begin(self) -> None:
        self._settle()
        self._report()
        with self._noting:
            if not self._ended:  # or it would stand there for ever, over how the task ended
                self._task.backend.store_result(self.task_id, {"hostname": self._runner}, STARTED)

    def _report(self) -> None:
        self._due.set()
        state = self._state
        if state == "TESTED":  # the timer was late: the result tells
            return
        record = self.record() | self._measures | {"state": state, "hard_time_limit": config.limits().hard_time}
        try:
            _send(self._task, "runapp.tasks.save_progress", record, wait=False)
        except Exception as error:  # the broker is away; the result will tell
            log.warning("fold %s: progress not reported: %s", self._id, error)


def _send(task: Task, name: str, message: dict[str, Any], wait: bool = True) -> None:
    """Send to the master. wait: the message must arrive, whenever that is; otherwise an error says that it did not."""
    if not wait:
        _publish(name, message, seconds=PROGRESS_SECONDS, policy={"max_retries": 0})
        return
    try:
        kept().send(name, message)
    except OSError as error:
        log.warning("task %s: its result can't be kept here, the broker must take it: %s", message["task_id"], error)
        _publish(name, message, policy=RETRY)


def _publish(
    name: str, message: dict[str, Any], seconds: float = CONFIRM_SECONDS, policy: dict[str, float] = ONCE
) -> None:
    """Returns once the broker has confirmed the message; any error says that it has not."""
    app: Any = current_app
    # argsrepr: left to itself Celery makes a text of all predictions, for Flower to show.
    shown: dict[str, Any] = {"ignore_result": True, "argsrepr": f"task {message['task_id']}"}
    if config.has_broker():
        shown["declare"] = []  # a runner may declare nothing; Celery takes its time to find that out each time
    with app.producer_or_acquire() as producer:
        try:
            how = {"retry": True, "retry_policy": policy, "confirm_timeout": seconds}
            app.send_task(name, [message], producer=producer, **how, **shown)
        except Exception:
            # A confirmation that comes late would count for the next message of this connection.
            with contextlib.suppress(Exception):
                producer.connection.collect()
            raise
