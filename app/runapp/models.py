"""The tables of the manuals, and what a good operator would miss; one-row state changes as methods.

Payload columns (indices and predictions) hold base64 text, or `@<hash>/<name>` where the text is a file on
the shared disk (runner.payloads).
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from django.conf import settings
from django.db import models, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Left
from django.utils import timezone

from runner import payloads
from runner.jobs import Reason

PAYLOADS = ("train_is", "test_is", "full_train_predictions", "test_predictions")

NOT_FETCHED = UUID(int=0)

GRACE = timedelta(seconds=60)
"""How long after its hard limit a fold's result may take to arrive before the fold counts as lost."""


def without_payloads(folds: "QuerySet[SubmissionFold]") -> "QuerySet[SubmissionFold]":
    """The folds without their long columns, which may hold megabytes, but with the names of the payload files."""
    names: dict[str, Any] = {f"{name}_start": Left(name, 200) for name in PAYLOADS}
    return folds.defer(*PAYLOADS, "log_messages").annotate(**names)


def cascade_without_payloads(collector: Any, field: Any, folds: "QuerySet[SubmissionFold]", using: str) -> None:
    """Delete a submission's folds with it. Django's own CASCADE would read all columns of all of them."""
    models.CASCADE(collector, field, without_payloads(folds), using)


cascade_without_payloads.lazy_sub_objs = True  # type: ignore[attr-defined]  # Django: do not read the folds before


class RawData(models.Model):
    """A data set. `folder` below DIR_DATA holds its versions: the raw files, and one for each split."""

    class Split(models.TextChoices):
        NONE = "", "never asked for"
        QUEUED = "QUEUED"
        DONE = "DONE"
        ERROR = "ERROR"

    name = models.CharField(max_length=100, unique=True)
    files_path = models.CharField(max_length=400, editable=False, help_text="folder of the version that new folds use")
    workflow_elements = models.CharField(max_length=200)
    target_column = models.CharField(max_length=200, blank=True)

    folder = models.CharField(max_length=200, editable=False)
    custom = models.BooleanField(default=False, editable=False, help_text="with a specific.py of its own")
    split_state = models.CharField(max_length=6, choices=Split.choices, default=Split.NONE, blank=True, editable=False)
    split_task_id = models.CharField(max_length=36, blank=True, editable=False)
    split_log = models.TextField(blank=True, editable=False)
    split_reason = models.CharField(max_length=20, blank=True, editable=False, help_text="of the split that failed")
    split_request = models.JSONField(default=dict, editable=False)
    split_attempts = models.IntegerField(default=0, editable=False)
    split_asked_at = models.DateTimeField(null=True, editable=False)
    split_queued_at = models.DateTimeField(null=True, editable=False)
    split_runner = models.CharField(
        max_length=200, blank=True, editable=False, help_text="the runner of the last split"
    )
    n_train = models.IntegerField("train rows", null=True, editable=False)
    n_test = models.IntegerField("test rows", null=True, editable=False)
    size = models.BigIntegerField(default=0, editable=False, help_text="bytes of the files as they were sent")
    # Runners compare both with what they read: others may have written to the share.
    digest = models.CharField(max_length=64, blank=True, editable=False, help_text="of the files as they were sent")
    sums_digest = models.CharField(
        max_length=64, blank=True, editable=False, help_text="SHA-256 of the sums of the version in use"
    )
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "data set"
        ordering = ("id",)

    def __str__(self) -> str:
        return self.name

    @property
    def root(self) -> Path:
        return settings.DIR_DATA / self.folder

    def finish_split(self, task_id: str, **changes: Any) -> bool:
        """Record the end of the split that is awaited; False for any other."""
        waiting = RawData.objects.filter(pk=self.pk, split_task_id=task_id, split_state=self.Split.QUEUED)
        return waiting.update(**changes) == 1

    def try_split_again(self, task_id: str) -> bool:
        """Count another attempt of the awaited split; False where it is not awaited, or has had its attempts."""
        waiting = RawData.objects.filter(pk=self.pk, split_task_id=task_id, split_state=self.Split.QUEUED)
        again = waiting.filter(split_attempts__lt=settings.MAX_ATTEMPTS)
        return again.update(split_attempts=F("split_attempts") + 1, split_queued_at=None) == 1


class Submission(models.Model):
    """A machine-learning model: the files of a contestant."""

    databoard_s_id = models.IntegerField("id", primary_key=True)
    files_path = models.CharField(max_length=400, null=True, editable=False)  # noqa: DJ001 - so in the manual
    raw_data = models.ForeignKey(RawData, models.CASCADE, null=True, blank=True)
    size = models.BigIntegerField(default=0, editable=False, help_text="bytes of the files as they were sent")
    digest = models.CharField(max_length=64, blank=True, editable=False, help_text="of the files as they were sent")
    webhook = models.CharField(max_length=500, blank=True, editable=False, help_text="told when a fold ends")
    webhook_secret = models.CharField(max_length=200, blank=True, editable=False, help_text="signs what it is told")

    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("databoard_s_id",)

    def __str__(self) -> str:
        return f"submission {self.databoard_s_id}"


class SubmissionFold(models.Model):
    """A submission to be trained and tested on one fold."""

    class State(models.TextChoices):
        TODO = "TODO"
        TRAINED = "TRAINED"
        VALIDATED = "VALIDATED"
        TESTED = "TESTED"
        ERROR = "ERROR"

    class Priority(models.TextChoices):
        LOW = "L", "low"
        HIGH = "H", "high"

    databoard_sf_id = models.IntegerField("id", primary_key=True)
    databoard_s = models.ForeignKey(
        Submission, cascade_without_payloads, null=True, blank=True, verbose_name="submission"
    )
    priority = models.CharField(max_length=1, choices=Priority.choices, default=Priority.LOW)
    state = models.CharField(max_length=9, choices=State.choices, default=State.TODO)
    train_time = models.FloatField(default=0.0)
    validation_time = models.FloatField(default=0.0)
    test_time = models.FloatField(default=0.0)
    train_cpu_time = models.FloatField(default=0.0)
    train_memory = models.FloatField(default=0.0)
    test_cpu_time = models.FloatField(default=0.0)
    test_memory = models.FloatField(default=0.0)
    new = models.BooleanField("to fetch", default=True)

    error_reason = models.CharField(max_length=20, choices=[(r.value, r.value) for r in Reason], blank=True)
    task_id = models.CharField(max_length=36, blank=True)
    attempts = models.IntegerField(default=0)
    returns = models.IntegerField(default=0, help_text="how often its message came back too often")
    runner = models.CharField(max_length=200, blank=True)
    # fold_pressure begins with it
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, db_index=False)
    created_at = models.DateTimeField(auto_now_add=True)
    queued_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    reported_at = models.DateTimeField(null=True, help_text="when its runner last said how far it is, by our clock")
    # Of one whose message has left its queue, too, before a runner reports it.
    deadline = models.DateTimeField(null=True, help_text="when a fold that runs counts as lost")
    # Never NULL: SQLite overwrites a row in place where its length stays.
    fetch_id = models.UUIDField(default=NOT_FETCHED, help_text="the request for new predictions that took this fold")

    # What a runner needs to know of test_is: its largest row number.
    highest_test_row = models.BigIntegerField(default=0)
    # Null while there are no predictions.
    full_train_predictions_shape = models.JSONField(null=True, editable=False)
    test_predictions_shape = models.JSONField(null=True, editable=False)

    # The long columns last: what stands before them is read without them.
    log_messages = models.TextField(blank=True)
    train_is = models.TextField(blank=True)
    test_is = models.TextField(blank=True)
    full_train_predictions = models.TextField(blank=True)
    test_predictions = models.TextField(blank=True)

    OPEN = (State.TODO, State.TRAINED, State.VALIDATED)

    class Meta:
        verbose_name = "fold"
        ordering = ("databoard_sf_id",)
        indexes = [
            # The light list reads nothing but this index: the rows are large.
            models.Index("databoard_sf_id", "databoard_s", "state", "new", name="fold_light"),
            models.Index("state", "databoard_sf_id", name="fold_state"),
            models.Index(fields=["-created_at", "-databoard_sf_id"], name="fold_newest"),  # the list of /admin/
            models.Index("databoard_sf_id", name="fold_new", condition=Q(state="TESTED", new=True)),
            models.Index("databoard_sf_id", name="fold_open", condition=Q(state__in=("TODO", "TRAINED", "VALIDATED"))),
            models.Index("fetch_id", name="fold_fetch", condition=~Q(fetch_id=NOT_FETCHED)),
            # Where a fold stands in its queue, how long the last ones took, and what /metrics counts. SQLite reads
            # a row for each column that the index lacks, be it the one of its condition.
            models.Index(
                "state",
                "started_at",
                "priority",
                "queued_at",
                "databoard_sf_id",
                name="fold_waiting",
                condition=Q(state="TODO", started_at__isnull=True),
            ),
            models.Index(
                "priority",
                F("finished_at").desc(),
                "started_at",
                name="fold_finished",
                condition=Q(finished_at__isnull=False),
            ),
            models.Index("deadline", "state", name="fold_deadline", condition=Q(deadline__isnull=False)),
            models.Index("state", "error_reason", name="fold_error", condition=Q(state="ERROR")),
            models.Index("attempts", name="fold_retried", condition=Q(attempts__gt=1)),
            # What a user has under way, and its pace: counted with each request (runapp.services.pressure).
            models.Index("created_by", "state", "started_at", name="fold_pressure"),
            models.Index("created_by", "finished_at", name="fold_pace", condition=Q(finished_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"fold {self.databoard_sf_id}"

    def advance(self, task_id: str, state: str, started_at: datetime, hard_time_limit: float, **changes: Any) -> bool:
        """Record how far the awaited task is; False for any other task, and for news that came late.

        A task that starts anew, since its runner died, begins from the first state again.
        """
        earlier = Q(state__in=self.OPEN[: self.OPEN.index(self.State(state)) + 1])
        anew = Q(state__in=self.OPEN) & ~Q(started_at=started_at)
        now = timezone.now()
        deadline = now + timedelta(seconds=hard_time_limit) + GRACE
        awaited = SubmissionFold.objects.filter(earlier | anew, pk=self.pk, task_id=task_id)
        times = {"started_at": started_at, "deadline": deadline, "reported_at": now}
        return awaited.update(state=state, **times, **changes) == 1

    @classmethod
    def awaited(cls, pk: int, task_id: str) -> QuerySet["SubmissionFold"]:
        """The fold of this id if it waits for this task's end; otherwise nothing."""
        return cls.objects.filter(pk=pk, task_id=task_id, state__in=cls.OPEN)

    def finish(self, task_id: str, **changes: Any) -> bool:
        """Record the verdict of the awaited task, once; False for any other task."""
        with transaction.atomic():
            ended = self.awaited(self.pk, task_id).update(**changes) == 1
            if ended:
                Call.record(SubmissionFold.objects.filter(pk=self.pk))
        return ended

    def wait_again(self, awaited: str, **changes: Any) -> bool:
        """Wait for another run of the awaited task, or for another task; False where the fold does not wait for it."""
        fold = self.awaited(self.pk, awaited)
        waiting = {"state": self.State.TODO, "started_at": None, "deadline": None, "runner": ""}
        return fold.update(**waiting, **changes) == 1

    def payload_files(self) -> list[str]:
        """The payloads that are files, as their columns name them. Asks the database if `without_payloads` has not."""
        if not hasattr(self, f"{PAYLOADS[0]}_start"):
            row = without_payloads(SubmissionFold.objects.filter(pk=self.pk)).first()
            return row.payload_files() if row else []
        return [text for name in PAYLOADS if payloads.is_file(text := getattr(self, f"{name}_start"))]


class Runner(models.Model):
    """A worker that serves work queues, as it last reported itself (runner.heartbeat)."""

    class Said(models.TextChoices):
        UP = "up"
        STOPPING = "stopping"
        STOPPED = "stopped"

    SILENT = timedelta(seconds=30)
    """How long a runner that is up may go without a report that arrives: it sends one every ten seconds."""

    name = models.CharField(max_length=200, primary_key=True)
    said = models.CharField(max_length=8, choices=Said.choices)
    signed = models.BooleanField(default=False, help_text="RabbitMQ vouches for its reports")
    heartbeat_at = models.DateTimeField("last heard", help_text="by the master's clock")
    heard_since = models.DateTimeField(default=timezone.now, help_text="without a gap, by the master's clock")
    queues = models.JSONField(default=list, help_text="that it takes work from now")
    configured = models.JSONField(default=list, help_text="that it takes work from when nothing is wrong")
    slots = models.IntegerField()
    busy = models.JSONField(default=list, help_text="[{databoard_sf_id, raw_data_id, since (Unix time)}]")
    soft_time_limit = models.FloatField()
    hard_time_limit = models.FloatField()
    version = models.CharField(max_length=50, blank=True)
    share = models.BooleanField("sees the share")
    packages = models.JSONField(default=list, help_text="that folds can import there (runner.packages)")
    # By the runner's clock. Together they put its reports in order.
    started_at = models.DateTimeField()
    number = models.IntegerField("reports since its start")

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @property
    def state(self) -> str:
        """up, silent, stopped, stopping (it finishes its folds and takes no more) or no share."""
        if self.said == self.Said.STOPPED:
            return "stopped"
        if abs(timezone.now() - self.heartbeat_at) > self.SILENT:  # in the future: the master's clock was set back
            return "silent"
        if self.said == self.Said.STOPPING:
            return "stopping"
        return "up" if self.share else "no share"


class Call(models.Model):
    """The end of a fold, of which a webhook is still to be told (runapp.services.calls).

    It names its fold by id and task: of a fold that was deleted or replaced nobody is told any more.
    """

    delivery = models.UUIDField(primary_key=True, default=uuid4)
    databoard_sf_id = models.IntegerField()
    task_id = models.CharField(max_length=36)
    host = models.CharField(max_length=500, help_text="one at a time is told something")
    attempts = models.IntegerField(default=0)
    due_at = models.DateTimeField(default=timezone.now, help_text="when it may be tried next")

    class Meta:
        indexes = [models.Index("due_at", name="call_due")]

    def __str__(self) -> str:
        return f"call for fold {self.databoard_sf_id}"

    @staticmethod
    def record(ended: QuerySet[SubmissionFold]) -> None:
        """Have the webhooks told of the end of these folds, in the transaction that ends them."""
        told = ended.filter(databoard_s__webhook__gt="")
        rows = told.values_list("pk", "task_id", "databoard_s__webhook")
        calls = [Call(databoard_sf_id=pk, task_id=task, host=urlsplit(url).hostname or "") for pk, task, url in rows]
        Call.objects.bulk_create(calls, batch_size=500)

    def claim(self, until: datetime) -> bool:
        """Take this attempt for oneself, up to that time; False where another has it."""
        mine = Call.objects.filter(pk=self.pk, due_at=self.due_at)
        if mine.update(due_at=until, attempts=F("attempts") + 1) != 1:
            return False
        self.due_at, self.attempts = until, self.attempts + 1
        return True

    def postpone(self, until: datetime) -> bool:
        """Try again then; False where the claim has expired and another has it."""
        return Call.objects.filter(pk=self.pk, due_at=self.due_at).update(due_at=until) == 1


class Attempt(models.Model):
    """An attempt of a fold that the infrastructure failed. The one that came to a verdict is in the fold's columns."""

    LOST = "lost"
    """The outcome where the runner is gone; where it could tell, it is the error reason."""

    fold = models.ForeignKey(SubmissionFold, models.CASCADE, related_name="failed_attempts")
    number = models.IntegerField()
    task_id = models.CharField(max_length=36)
    runner = models.CharField(max_length=200, blank=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(help_text="when the master learned of its end, where the runner could not tell")
    outcome = models.CharField(max_length=20)
    text = models.TextField(blank=True)

    class Meta:
        ordering = ("fold", "number")
        constraints = [models.UniqueConstraint(fields=["fold", "number"], name="attempt_number")]

    def __str__(self) -> str:
        return f"attempt {self.number} of fold {self.fold_id}"
