"""/admin/: what an operator looks for, found by state, reason, data set and user."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from runapp.models import PAYLOADS, Attempt, RawData, Runner, Submission, SubmissionFold, without_payloads

admin.site.site_header = admin.site.site_title = "datarun"
admin.site.index_title = "Tables"
admin.site.site_url = None  # templates/admin/base_site.html links to the documentation of the API instead

SHOWN = 100
"""Rows that the page before a deletion lists by name."""


# Functions that stand for columns. They return Any, because the stubs of `list_display` know only names.


def log(name: str, title: str) -> Any:
    """A text column as a program printed it: in a fixed-width font, scrolling where it is long."""
    style = (
        "margin: 0; max-width: 75vw; max-height: 30em; overflow: auto; white-space: pre-wrap; font-family: monospace"
    )

    def shown(row: Model) -> str:
        text = getattr(row, name)
        return format_html('<pre style="{}">{}</pre>', style, text) if text else "-"

    return _column(shown, name, title)


def seconds(name: str) -> Any:
    """A column in seconds."""
    return _column(lambda row: f"{getattr(row, name):.3f} s", name)


def megabytes(name: str) -> Any:
    """A column in kB, shown in MB."""
    return _column(lambda row: f"{getattr(row, name) / 1024:.1f} MB", name)


def _column(shown: Callable[[Any], str], name: str, title: str = "") -> Any:
    """Show the column `name` with this function. Lists are still sorted by the column."""
    shown.__name__ = name
    return admin.display(shown, description=title or name.replace("_", " "), ordering=name)


class DataAdmin(admin.ModelAdmin):
    """Rows that the API or a runner made. Deleting one may delete many others."""

    takes_along: dict[type[Model], str] = {}
    """Model -> lookup of its rows that are deleted with rows of this one."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """What the page before a deletion says. Django itself would read and list all rows, perhaps 100,000 folds.

        Returns the names of rows, numbers by kind, kinds that the user may not delete, and rows that prevent it.
        """
        objs = [*objs]
        lines = [str(row) for row in objs[:SHOWN]]
        if len(objs) > SHOWN:
            lines.append(f"... and {len(objs) - SHOWN} more")
        numbers = {str(self.opts.verbose_name_plural): len(objs)}
        refused = set() if self.has_delete_permission(request) else {str(self.opts.verbose_name)}
        for model, lookup in self.takes_along.items():
            if number := model._default_manager.filter(**{lookup: [row.pk for row in objs]}).count():
                numbers[str(model._meta.verbose_name_plural)] = number
                if not self.admin_site.get_model_admin(model).has_delete_permission(request):
                    refused.add(str(model._meta.verbose_name))
        return lines, numbers, refused, []


@admin.register(RawData)
class RawDataAdmin(DataAdmin):
    takes_along = {Submission: "raw_data__in", SubmissionFold: "databoard_s__raw_data__in"}
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
    list_select_related = ("created_by",)
    search_fields = ("name",)
    readonly_fields = (
        "files_path",
        "folder",
        "custom",
        "split_state",
        "split_task_id",
        log("split_log", "split log"),
        "split_request",
        "split_runner",
        "n_train",
        "n_test",
        "size",
        "created_by",
        "created_at",
    )


@admin.register(Submission)
class SubmissionAdmin(DataAdmin):
    takes_along = {SubmissionFold: "databoard_s__in"}
    list_display = ("databoard_s_id", "raw_data", "files_path", "size", "webhook", "created_by", "created_at")
    list_filter = ("raw_data", "created_by")
    list_select_related = ("raw_data", "created_by")
    search_fields = ("=databoard_s_id",)
    readonly_fields = ("databoard_s_id", "raw_data", "files_path", "size", "webhook", "created_by", "created_at")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        # A filter of the address line could guess the secret letter by letter.
        return "webhook_secret" not in lookup and super().lookup_allowed(lookup, value, request)


class AttemptInline(admin.TabularInline):
    """The attempts that failed. The last attempt is described by the fold itself."""

    model = Attempt
    readonly_fields = ("number", "outcome", "runner", "started_at", "finished_at", log("text", "log"), "task_id")
    fields = readonly_fields
    ordering = ("number",)
    extra = 0
    can_delete = False
    verbose_name_plural = "failed attempts"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class RunnerFilter(admin.SimpleListFilter):
    """By runner. Django's own filter would look for their names in all folds."""

    title = parameter_name = "runner"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in Runner.objects.values_list("name", flat=True)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[SubmissionFold]) -> QuerySet[SubmissionFold]:
        return queryset.filter(runner=self.value()) if self.value() else queryset


@admin.register(SubmissionFold)
class SubmissionFoldAdmin(DataAdmin):
    ordering = ("-created_at",)
    list_display = (
        "databoard_sf_id",
        "databoard_s",
        "created_by",
        "state",
        "error_reason",
        "priority",
        "runner",
        "attempts",
        seconds("train_time"),
        megabytes("train_memory"),
        "created_at",
        "finished_at",
        "new",
    )
    list_filter = ("state", "error_reason", "priority", "new", "databoard_s__raw_data", RunnerFilter, "created_by")
    list_select_related = ("databoard_s", "created_by")
    list_per_page = 50
    show_full_result_count = False
    search_fields = ("=databoard_sf_id", "=databoard_s__databoard_s_id", "=task_id")
    inlines = (AttemptInline,)
    in_words = {
        "log_messages": log("log_messages", "log"),
        **{name: seconds(name) for name in ("train_time", "validation_time", "test_time")},
        **{name: seconds(name) for name in ("train_cpu_time", "test_cpu_time")},
        **{name: megabytes(name) for name in ("train_memory", "test_memory")},
    }
    """Columns that are not shown as they are."""
    first = ("log_messages", "databoard_sf_id", "databoard_s", "created_by", "state", "error_reason")

    def get_queryset(self, request: HttpRequest) -> QuerySet[SubmissionFold]:
        return without_payloads(super().get_queryset(request))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        columns = [field.name for field in SubmissionFold._meta.fields]
        columns.sort(key=lambda name: self.first.index(name) if name in self.first else len(self.first))
        return [self.in_words.get(name, name) for name in columns if name not in PAYLOADS]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return self.get_readonly_fields(request, obj)


@admin.register(Runner)
class RunnerAdmin(DataAdmin):
    list_display = ("name", "state", "heartbeat_at", "queues", "slots", "slots_busy", "version", "started_at")

    @admin.display(description="busy")
    def slots_busy(self, runner: Runner) -> int:
        return len(runner.busy)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # what it says of itself; one that is gone for good can be deleted
