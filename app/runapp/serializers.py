"""Input: what clients send, checked to the last byte. Output: which columns each list shows."""

from typing import Any, cast

from django.conf import settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from runapp import rows, storage, webhooks
from runapp.models import RawData, SubmissionFold
from runapp.strict import StrictSerializer
from runner import columns, digests, payloads
from runner.elements import SPECIFIC, parse_elements

MAX_ID = 2**31 - 1
MAX_WAIT = 60
"""Seconds that a request may wait for the end of a fold: what stands between gives up on a silent one."""
MOST_FILES_OF_REQUEST = 50_000
MOST_IDS = 100_000
MOST_BAD = 100
"""Items of a list that an answer says something of, where each is wrong."""
FORCES = ("submission", "submission_fold")

LIGHT_FIELDS = ("databoard_sf_id", "databoard_s", "state", "new")
PREDICTION_FIELDS = (
    "databoard_sf_id",
    "databoard_s",
    "test_predictions",
    "full_train_predictions",
    "test_predictions_shape",
    "full_train_predictions_shape",
    "state",
    "log_messages",
    "train_time",
    "validation_time",
    "test_time",
    "train_cpu_time",
    "test_cpu_time",
    "train_memory",
    "test_memory",
    "error_reason",
)
FOLD_FIELDS = (
    "databoard_sf_id",
    "databoard_s",
    "train_is",
    "test_is",
    "priority",
    "full_train_predictions",
    "test_predictions",
    "full_train_predictions_shape",
    "test_predictions_shape",
    "state",
    "log_messages",
    "train_time",
    "validation_time",
    "test_time",
    "train_cpu_time",
    "train_memory",
    "test_cpu_time",
    "test_memory",
    "new",
    "error_reason",
    "task_id",
    "attempts",
    "runner",
    "sent_by",
    "created_at",
    "queued_at",
    "started_at",
    "finished_at",
)


def _only(values: list[str]) -> dict[str, Any]:
    """The message of a field that takes these values alone."""
    return {"invalid_choice": f'"{{input}}" is not a valid choice: use {", ".join(values[:-1])} or {values[-1]}.'}


class Indices(str):
    """Packed row numbers that were checked; `highest` is the largest of them."""

    highest: int


class Files(dict[str, str]):
    """Packed files that were checked; `digest` tells files of other names or contents apart. size: bytes.

    hashes: name -> SHA-256 of the content.
    """

    hashes: dict[str, str]
    digest: str
    size: int


@extend_schema_field(OpenApiTypes.STR)
class PackedField(serializers.Field):
    """base64(zlib(bytes)) as text."""

    default_error_messages = {"invalid": "Send base64(zlib(content)) as a text."}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str) or not data.isascii():
            self.fail("invalid")
        return data

    def to_representation(self, value: str) -> str:
        return value


class IndicesField(PackedField):
    """base64(zlib(int64 little-endian)): row numbers of the train set, each once, kept as they were sent."""

    def to_internal_value(self, data: Any) -> Indices:
        text = super().to_internal_value(data)
        if payloads.is_file(text):
            self.fail("invalid")
        # One bound for all row numbers of a request; a row takes two bytes of a data set at least.
        request = cast(dict[str, int], self.context)
        left = request.setdefault("rows", settings.MAX_DATA_BYTES)
        try:
            found = rows.check(text, left, settings.MAX_DATA_BYTES // 2)
        except rows.RowsError as error:
            raise ValidationError(str(error)) from None
        request["rows"] = left - found.size
        checked = Indices(text)
        checked.highest = found.highest
        return checked


class FilesField(serializers.DictField):
    """{file name: base64(zlib(content))}, of a bounded size together."""

    child = PackedField()
    default_error_messages = {
        "not_a_dict": 'Send {{"file name": "base64(zlib(content))"}}, in a form as JSON text; '
        "this is of type {input_type}."
    }

    def __init__(self, setting: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._setting = setting

    def to_internal_value(self, data: Any) -> Files:
        # Before they are looked at one by one, and for all of a request together.
        request = cast(dict[str, int], self.context)
        left = request.setdefault("files", MOST_FILES_OF_REQUEST)
        if isinstance(data, dict):
            if len(data) > storage.MOST_FILES:
                raise ValidationError(f"Send {storage.MOST_FILES} files at most; these are {len(data)}.")
            if len(data) > left:
                raise ValidationError(f"A request may have {MOST_FILES_OF_REQUEST} files: send fewer folds at once.")
            request["files"] = left - len(data)
        files = Files(super().to_internal_value(data))
        if not files:
            raise ValidationError("Send at least one file.")
        if problems := {name: [problem] for name in files if (problem := storage.name_problem(name))}:
            raise ValidationError(problems)
        try:
            files.hashes, files.size = storage.hashes(files, getattr(settings, self._setting))
            files.digest = digests.of(files.hashes)
        except payloads.PayloadError as error:
            raise ValidationError(
                f"{error} ({'DATARUN_' + self._setting} is the bound for all files together)."
                if "unpacks" in str(error)
                else f"{error}."
            ) from None
        return files


class RawDataSerializer(StrictSerializer, serializers.ModelSerializer[RawData]):
    """A data set: `files` is one CSV file, or several with one .py (the custom data set's specific.py)."""

    files = FilesField("MAX_DATA_BYTES", write_only=True)
    # The unique check stands here for its message, which clients know.
    name = serializers.CharField(max_length=100)

    class Meta:
        model = RawData
        fields = (
            "id",
            "name",
            "files_path",
            "workflow_elements",
            "target_column",
            "custom",
            "split_state",
            "split_log",
            "split_runner",
            "n_train",
            "n_test",
            "created_at",
            "files",
        )
        read_only_fields = ("split_state", "split_log", "split_runner", "n_train", "n_test", "custom")
        extra_kwargs = {"target_column": {"required": True, "allow_blank": True}}

    def validate_name(self, name: str) -> str:
        if problem := storage.name_problem(f"{name}.csv"):
            raise ValidationError(problem)
        if RawData.objects.filter(name=name).exists():
            raise ValidationError("RawData with this name already exists.")
        return name

    def validate(self, data: dict[str, Any]) -> dict[str, Any]:
        files = data["files"]
        scripts = [name for name in files if name.endswith(".py")]
        data["custom"] = len(files) > 1 and bool(scripts)
        data["digest"], data["size"] = files.digest, files.size
        if data["custom"]:
            if len(scripts) > 1:
                raise ValidationError({"files": f"Send one .py file (it becomes {SPECIFIC}), not {len(scripts)}."})
            stored = {name: SPECIFIC if name == scripts[0] else name for name in files}
        else:
            if len(files) == 1:
                self._check_standard(data)
            stored = {name: f"{data['name']}.csv" if len(files) == 1 else name for name in files}
        data["files"] = {stored[name]: text for name, text in files.items()}
        data["stored_digest"] = digests.of({stored[name]: content for name, content in files.hashes.items()})
        return data

    def _check_standard(self, data: dict[str, Any]) -> None:
        try:
            parse_elements(data["workflow_elements"])
        except ValueError as error:
            raise ValidationError({"workflow_elements": f"{error}."}) from None
        [(name, content)] = data["files"].items()
        try:
            problem = _target_problem(storage.csv_header(content), data["target_column"])
        except ValueError as error:
            problem = str(error)
        if problem:
            raise ValidationError({"target_column": f"{name} {problem}."})


def _target_problem(header: str, target: str) -> str | None:
    """What is wrong with the target column, seen from the header of a CSV file; None if nothing is."""
    names = storage.csv_names(header)
    found = columns.find(names, target) if target.strip() else None
    if found is not None:
        return f"names its column {found!r} more than once: rename the others" if names.count(found) > 1 else None
    for separator, word in _SEPARATORS.items():
        if target.strip() and columns.find(storage.csv_names(header, separator), target) is not None:
            return f"has its fields separated by {word}: separate them by commas"
    return f"has no such column; its first row names: {', '.join(map(repr, names))[:500]}"


_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ":": "colons", " ": "blanks"}


class SplitSerializer(StrictSerializer):
    raw_data_id = serializers.IntegerField(min_value=0, max_value=MAX_ID)
    held_out_test = serializers.FloatField(help_text="ratio of the rows that become the test set")
    random_state = serializers.IntegerField(default=42, min_value=0, max_value=2**32 - 1)

    def validate_held_out_test(self, ratio: float) -> float:
        if not 0 < ratio < 1:
            raise ValidationError("The ratio lies between 0 and 1, both excluded.")
        return ratio


class CustomSplitSerializer(StrictSerializer):
    raw_data_id = serializers.IntegerField(min_value=0, max_value=MAX_ID)


class TaskSerializer(serializers.Serializer[Any]):
    task_id = serializers.UUIDField()


class Folds(serializers.ListSerializer[Any]):
    """Many folds. After MOST_BAD bad ones the others are not looked at: to say what is wrong with one costs time."""

    bad = 0

    def run_child_validation(self, data: Any) -> Any:
        if self.bad >= MOST_BAD:
            return None
        try:
            return super().run_child_validation(data)
        except ValidationError:
            self.bad += 1
            raise


class NewFoldSerializer(StrictSerializer):
    """A fold to be trained and tested; with raw_data and files where its submission is new."""

    class Meta:
        list_serializer_class = Folds

    databoard_sf_id = serializers.IntegerField(min_value=0, max_value=MAX_ID)
    databoard_s_id = serializers.IntegerField(min_value=0, max_value=MAX_ID)
    train_is = IndicesField()
    test_is = IndicesField()
    priority = serializers.ChoiceField(
        SubmissionFold.Priority.choices,
        default="L",
        allow_null=True,
        error_messages=_only(SubmissionFold.Priority.values),
    )
    raw_data = serializers.IntegerField(min_value=0, max_value=MAX_ID, required=False, allow_null=True)
    files = FilesField("MAX_SUBMISSION_BYTES", required=False, allow_null=True)
    force = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, help_text="'submission', 'submission_fold', or both"
    )
    webhook = serializers.CharField(
        required=False,
        allow_null=True,
        max_length=webhooks.MAX_URL,
        trim_whitespace=False,
        help_text="of a new submission: the URL that is told when one of its folds has ended",
    )
    webhook_secret = serializers.CharField(
        required=False,
        allow_null=True,
        min_length=16,
        max_length=200,
        trim_whitespace=False,
        write_only=True,
        help_text="what the webhook's calls are signed with",
    )

    def validate_webhook(self, url: str | None) -> str | None:
        if url is not None:
            try:
                webhooks.parse(url)
            except ValueError as error:
                raise ValidationError(str(error)) from None
        return url

    def validate(self, data: dict[str, Any]) -> dict[str, Any]:
        if (data.get("webhook") is None) != (data.get("webhook_secret") is None):
            missing = "webhook" if data.get("webhook") is None else "webhook_secret"
            raise ValidationError({missing: "Send webhook and webhook_secret together, or neither."})
        return data

    def validate_priority(self, priority: str | None) -> str:
        return priority or "L"

    def validate_force(self, text: str | None) -> set[str]:
        words = {word.strip() for word in (text or "").split(",")} - {""}
        if unknown := words - {*FORCES}:
            raise ValidationError(
                f"{sorted(unknown)[0]!r} is unknown: use {' or '.join(FORCES)}, or both with a comma."
            )
        return words


class FoldsSerializer(StrictSerializer):
    """Many folds in a form, whose fields have names."""

    folds = serializers.ListField(
        help_text="the folds, in a form as JSON text",
        error_messages={"not_a_list": "Send a list of folds, in a form as JSON text; this is of type {input_type}."},
    )


class WaitSerializer(StrictSerializer):
    wait = serializers.IntegerField(
        min_value=0,
        max_value=MAX_WAIT,
        default=0,
        help_text="seconds to wait for the fold's end; the answer may come earlier: look at its state",
    )


class ShapesSerializer(serializers.ModelSerializer[SubmissionFold]):
    """How many rows and outputs the predictions have; null while there are none."""

    full_train_predictions_shape = serializers.ListField(child=serializers.IntegerField(), allow_null=True)
    test_predictions_shape = serializers.ListField(child=serializers.IntegerField(), allow_null=True)


class FoldSerializer(ShapesSerializer):
    """All of a fold."""

    sent_by = serializers.CharField(allow_null=True)

    class Meta:
        model = SubmissionFold
        fields = FOLD_FIELDS


class AttemptSerializer(serializers.Serializer[Any]):
    """An attempt of a fold that has ended."""

    number = serializers.IntegerField()
    task_id = serializers.CharField()
    runner = serializers.CharField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField()
    outcome = serializers.CharField(help_text="done, the error_reason, or lost: its runner is gone")
    text = serializers.CharField(help_text="its log, or what is known of its end")


class FoldDetailSerializer(FoldSerializer):
    history = AttemptSerializer(many=True, help_text="the attempts that have ended, oldest first")

    class Meta(FoldSerializer.Meta):
        fields = (*FOLD_FIELDS, "history")  # type: ignore[assignment]


class LightFoldSerializer(serializers.ModelSerializer[SubmissionFold]):
    class Meta:
        model = SubmissionFold
        fields = LIGHT_FIELDS


class PredictionSerializer(ShapesSerializer):
    class Meta:
        model = SubmissionFold
        fields = PREDICTION_FIELDS


class IdsField(serializers.ListField):
    """Whole numbers. Of those that are none MOST_BAD are named."""

    child = serializers.IntegerField(min_value=-(2**63), max_value=2**63 - 1)

    def run_child_validation(self, data: Any) -> list[int]:
        if len(data) > MOST_IDS:
            raise ValidationError(f"Send {MOST_IDS} at most; these are {len(data)}.")
        values: list[int] = []
        errors: dict[Any, Any] = {}
        for number, item in enumerate(data):
            try:
                values.append(self.child.run_validation(item))
            except ValidationError as error:
                errors[number] = error.detail
                if len(errors) == MOST_BAD:
                    break
        if errors:
            raise ValidationError(errors)
        return values


class PredictionListSerializer(StrictSerializer):
    list_submission_fold = IdsField(
        help_text="ids of folds; in a form as JSON text, or as a field that is repeated",
        error_messages={"not_a_list": "Send a list of fold ids such as [1, 2]; this is of type {input_type}."},
    )


class PredictionNewSerializer(StrictSerializer):
    raw_data_id = serializers.IntegerField(min_value=0, max_value=MAX_ID, required=False, allow_null=True)


class PageSerializer(StrictSerializer):
    """Which part of a list: all of it as a bare array, or a page where limit or offset is given."""

    limit = serializers.IntegerField(min_value=1, max_value=100_000, required=False)
    offset = serializers.IntegerField(min_value=0, max_value=MAX_ID, required=False)


class FoldQuerySerializer(PageSerializer):
    state = serializers.ChoiceField(
        SubmissionFold.State.choices, required=False, error_messages=_only(SubmissionFold.State.values)
    )
    raw_data = serializers.IntegerField(min_value=0, max_value=MAX_ID, required=False)
    databoard_s = serializers.IntegerField(min_value=0, max_value=MAX_ID, required=False)


class ErrorSerializer(serializers.Serializer[Any]):
    """{field: [message, ...]}; `detail` where no field is to blame."""

    detail = serializers.ListField(child=serializers.CharField(), required=False)
