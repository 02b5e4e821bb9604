"""/admin/: what an operator looks for, found by state, reason, data set and user."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from runapp.models import PAYLOADS, Attempt, RawData, Runner, Submission, SubmissionFold


@admin.register(RawData)
class RawDataAdmin(admin.ModelAdmin):
    list_display = (
        "id",
        "name",
        "workflow_elements",
        "custom",
        "split_state",
        "split_runner",
        "n_train",
        "n_test",
        "created_by",
        "created_at",
    )
    list_display_links = ("name",)
    list_filter = ("split_state", "custom", "created_by")
    search_fields = ("name",)
    readonly_fields = (
        "files_path",
        "folder",
        "custom",
        "split_state",
        "split_task_id",
        "split_log",
        "split_request",
        "split_runner",
        "n_train",
        "n_test",
        "size",
        "created_by",
        "created_at",
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # its files come through the API


@admin.register(Submission)
class SubmissionAdmin(admin.ModelAdmin):
    list_display = ("databoard_s_id", "raw_data", "files_path", "size", "webhook", "created_by", "created_at")
    list_filter = ("raw_data", "created_by")
    list_select_related = ("raw_data", "created_by")
    search_fields = ("=databoard_s_id",)
    readonly_fields = ("databoard_s_id", "raw_data", "files_path", "size", "webhook", "created_by", "created_at")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        # A filter of the address line could guess the secret letter by letter.
        return "webhook_secret" not in lookup and super().lookup_allowed(lookup, value, request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


class AttemptInline(admin.TabularInline):
    """The attempts that failed; the fold itself tells of the last one."""

    model = Attempt
    fields = readonly_fields = ("number", "outcome", "runner", "started_at", "finished_at", "text", "task_id")
    ordering = ("number",)
    extra = 0
    can_delete = False
    verbose_name_plural = "failed attempts"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(SubmissionFold)
class SubmissionFoldAdmin(admin.ModelAdmin):
    list_display = (
        "databoard_sf_id",
        "databoard_s",
        "state",
        "error_reason",
        "priority",
        "runner",
        "attempts",
        "train_time",
        "queued_at",
        "finished_at",
        "new",
    )
    list_filter = ("state", "error_reason", "priority", "new", "databoard_s__raw_data", "runner", "created_by")
    list_select_related = ("databoard_s",)
    search_fields = ("=databoard_sf_id", "=databoard_s__databoard_s_id", "=task_id")
    inlines = (AttemptInline,)
    exclude = PAYLOADS  # megabytes of base64 help nobody here
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[SubmissionFold]:
        return super().get_queryset(request).defer(*PAYLOADS)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [field.name for field in SubmissionFold._meta.fields if field.name not in PAYLOADS]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False


@admin.register(Runner)
class RunnerAdmin(admin.ModelAdmin):
    list_display = ("name", "state", "heartbeat_at", "queues", "slots", "slots_busy", "version", "started_at")

    @admin.display(description="busy")
    def slots_busy(self, runner: Runner) -> int:
        return len(runner.busy)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # what it says of itself; one that is gone for good can be deleted
