"""HTTP only: read the request, call a service, answer."""

from typing import Any

from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from drf_spectacular.utils import OpenApiResponse, PolymorphicProxySerializer, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from runapp import services, streams
from runapp.base import ApiView, checked
from runapp.models import RawData, Submission, SubmissionFold
from runapp.serializers import (
    FOLD_FIELDS,
    LIGHT_FIELDS,
    PREDICTION_FIELDS,
    CustomSplitSerializer,
    ErrorSerializer,
    FoldDetailSerializer,
    FoldQuerySerializer,
    FoldSerializer,
    FoldsSerializer,
    LightFoldSerializer,
    NewFoldSerializer,
    PageSerializer,
    PredictionListSerializer,
    PredictionNewSerializer,
    PredictionSerializer,
    RawDataSerializer,
    SplitSerializer,
    TaskSerializer,
    WaitSerializer,
)
from runapp.storage import save_files

__all__ = [
    "CustomSplitTrainTest",
    "GetTestPredictionList",
    "GetTestPredictionNew",
    "RawDataList",
    "SplitTrainTest",
    "SubmissionFoldBulk",
    "SubmissionFoldDetail",
    "SubmissionFoldLightList",
    "SubmissionFoldList",
    "save_files",
]

REFUSALS = {
    status: OpenApiResponse(ErrorSerializer, description=text)
    for status, text in {
        400: "What is wrong, by field",
        401: "No or wrong credentials",
        403: "No CSRF token with a session",
        406: "The answer can't be had in the format that was asked for",
        411: "The body has no Content-Length",
        413: "The request is larger than the server accepts",
        415: "The body is neither JSON nor a form, or it is compressed",
        429: "Too many wrong passwords from this address, or more than the user may have; Retry-After says when",
        503: "A disk does not answer, or too much is under way; nothing is stored, and nothing counts as fetched",
        507: "A disk is nearly full; nothing is stored",
    }.items()
}

BODY = (400, 411, 413, 415)
"""How a request may be refused that has a body."""

STORING = (*BODY, 503, 507)
"""How a request may be refused that has something to store."""


def answers(status: int, serializer: Any, *refusals: int) -> dict[int, Any]:
    common = (401, 403, 406, 429)
    return {status: serializer} | {code: REFUSALS.get(code, REFUSALS[400]) for code in (*common, *refusals)}


def listed(serializer: type[serializers.Serializer[Any]]) -> Any:
    """A list's answer in the schema: a bare array, or a page of it."""
    name = serializer.__name__.removesuffix("Serializer")
    page = inline_serializer(f"{name}Page", {"count": serializers.IntegerField(), "results": serializer(many=True)})
    return PolymorphicProxySerializer(f"{name}List", [serializer(many=True), page], None, many=False)


class RawDataList(ApiView):
    """List all data sets, or send a new one."""

    query = PageSerializer

    @extend_schema(
        operation_id="runapp_rawdata_list",
        parameters=[PageSerializer],
        responses=answers(200, listed(RawDataSerializer), 400),
    )
    def get(self, request: Request) -> Response:
        page = self.asked
        data_sets = RawData.objects.all()
        if not page:
            return Response(RawDataSerializer(data_sets, many=True).data)
        start = page.get("offset", 0)
        stop = start + page["limit"] if "limit" in page else None
        rows = RawDataSerializer(data_sets[start:stop], many=True).data
        return Response({"count": data_sets.count(), "results": rows})

    @extend_schema(request=RawDataSerializer, responses=answers(201, RawDataSerializer, *STORING))
    def post(self, request: Request) -> Response:
        """Store a data set: one CSV file, or several files with one .py, the custom data set's own code."""
        data = checked(RawDataSerializer, request.data)
        if len(data["files"]) > 1 and not data["custom"]:
            text = (
                "Several files need one .py among them (it becomes specific.py); a standard data set is one CSV file."
            )
            return Response({"files": [text]}, status=406)
        raw_data = services.create_raw_data(data, request.user)
        return Response(RawDataSerializer(raw_data).data, status=201)


class SplitTrainTest(ApiView):
    """Split a standard data set into train and test set."""

    serializer: type[serializers.Serializer[Any]] = SplitSerializer
    custom = False

    @extend_schema(request=SplitSerializer, responses=answers(200, TaskSerializer, *BODY, 507))
    def post(self, request: Request) -> Response:
        return self.split(request)

    def split(self, request: Request) -> Response:
        asked = checked(self.serializer, request.data)
        raw_data = data_set(asked.pop("raw_data_id"))
        if raw_data.custom != self.custom:
            right = (
                "has a specific.py: use /runapp/rawdata/customsplit/"
                if raw_data.custom
                else "has no specific.py: use /runapp/rawdata/split/"
            )
            raise ValidationError({"raw_data_id": f"Data set {raw_data.pk} {right}."})
        return Response({"task_id": services.ask_for_split(raw_data, **asked)})


class CustomSplitTrainTest(SplitTrainTest):
    """Split a custom data set with the prepare_data of its specific.py."""

    serializer = CustomSplitSerializer
    custom = True

    @extend_schema(request=CustomSplitSerializer, responses=answers(200, TaskSerializer, *BODY, 507))
    def post(self, request: Request) -> Response:
        return self.split(request)


class SubmissionFoldList(ApiView):
    """List all folds, or send a new one (and, if it is new, its submission)."""

    query = FoldQuerySerializer

    @extend_schema(
        operation_id="runapp_submissionfold_list",
        parameters=[FoldQuerySerializer],
        responses=answers(200, listed(FoldSerializer), 400, 503),
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        return fold_list(self.asked, FOLD_FIELDS)

    @extend_schema(request=NewFoldSerializer, responses=answers(201, FoldSerializer, *STORING))
    def post(self, request: Request) -> StreamingHttpResponse:
        [fold] = services.create_folds([checked(NewFoldSerializer, request.data)], request.user)
        return streams.one(fold_record(fold, request), status=201)


class SubmissionFoldBulk(ApiView):
    """Send many folds in one request: all of them are accepted, or none. A form has them in its field `folds`."""

    @extend_schema(
        request={
            "application/json": NewFoldSerializer(many=True),
            "application/x-www-form-urlencoded": FoldsSerializer,
            "multipart/form-data": FoldsSerializer,
        },
        responses=answers(201, FoldSerializer(many=True), *STORING),
    )
    def post(self, request: Request) -> StreamingHttpResponse:
        sent: Any = request.data
        if isinstance(sent, dict):
            sent = checked(FoldsSerializer, sent)["folds"]
        form = NewFoldSerializer(data=sent, many=True, allow_empty=False, max_length=10_000)  # type: ignore[call-arg]
        form.is_valid(raise_exception=True)
        folds = services.create_folds(form.validated_data, request.user)
        return streams.many((fold_record(fold, request) for fold in folds), status=201)


class SubmissionFoldDetail(ApiView):
    """All of one fold, with the attempts that have ended; with `wait` once it has ended, or after so many seconds."""

    query = WaitSerializer

    @extend_schema(parameters=[WaitSerializer], responses=answers(200, FoldDetailSerializer, 400, 404, 503))
    def get(self, request: Request, pk: int) -> StreamingHttpResponse:
        seconds = self.asked["wait"]
        waited = not seconds or services.wait_for_end(pk, seconds)
        record = next(streams.records(SubmissionFold.objects.filter(pk=pk), FOLD_FIELDS), None)
        if record is None:
            raise NotFound(f"There is no fold {pk}.")
        answer = streams.one(record | {"history": services.history(record)})
        if not waited and record["state"] in SubmissionFold.OPEN:
            answer["Retry-After"] = str(services.RETRY_AFTER)  # or a client that asks again at once never rests
        return answer


class SubmissionFoldLightList(ApiView):
    """Id, submission, state and `new` of all folds."""

    query = FoldQuerySerializer

    @extend_schema(
        operation_id="runapp_submissionfold_light_list",
        parameters=[FoldQuerySerializer],
        responses=answers(200, listed(LightFoldSerializer), 400, 503),
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        return fold_list(self.asked, LIGHT_FIELDS)


class GetTestPredictionList(ApiView):
    """Predictions of the folds with the given ids; they are no longer new."""

    @extend_schema(
        request=PredictionListSerializer, responses=answers(200, PredictionSerializer(many=True), *BODY, 503)
    )
    def post(self, request: Request) -> StreamingHttpResponse:
        ids = checked(PredictionListSerializer, request.data)["list_submission_fold"]
        folds = SubmissionFold.objects.filter(pk__in={pk for pk in ids if 0 <= pk < 2**31})
        shown = services.Shown()
        rows = shown.watch(streams.records(folds, (*PREDICTION_FIELDS, *shown.FIELDS)))
        return streams.many(
            (row | {"state": _state_of_2016(row["state"])} for row in rows), complete=shown.complete, closed=rows.close
        )


class GetTestPredictionNew(ApiView):
    """Predictions of the tested folds that nobody has fetched; they are no longer new."""

    @extend_schema(request=PredictionNewSerializer, responses=answers(200, PredictionSerializer(many=True), *BODY, 503))
    def post(self, request: Request) -> StreamingHttpResponse:
        raw_data_id = checked(PredictionNewSerializer, request.data).get("raw_data_id")
        folds = SubmissionFold.objects.filter(state=SubmissionFold.State.TESTED)
        if raw_data_id is not None:
            # Not by a join: PostgreSQL would move it, with `new`, into a subquery, which it does not look at
            # again after it has waited for a request that claims the same folds.
            folds = folds.filter(databoard_s__in=Submission.objects.filter(raw_data=data_set(raw_data_id)))
        fetch = services.Fetch(folds)
        rows = streams.records(fetch.folds, PREDICTION_FIELDS)
        return streams.many(rows, complete=fetch.complete, closed=fetch.release)


def _state_of_2016(state: str) -> str:
    """Databoard asks again only while it reads TODO: in 2016 TRAINED and VALIDATED never reached a client here."""
    return SubmissionFold.State.TODO if state in SubmissionFold.OPEN else state


def data_set(pk: int) -> RawData:
    try:
        return RawData.objects.get(pk=pk)
    except RawData.DoesNotExist:
        raise ValidationError({"raw_data_id": f"There is no data set {pk}; GET /runapp/rawdata/ lists them."}) from None


def fold_list(query: dict[str, Any], fields: tuple[str, ...]) -> StreamingHttpResponse:
    """The folds that the query asks for: a bare array, or a page with their count."""
    lookups = {"state": "state", "raw_data": "databoard_s__raw_data", "databoard_s": "databoard_s"}
    folds: QuerySet[SubmissionFold] = SubmissionFold.objects.filter(
        **{lookup: query[name] for name, lookup in lookups.items() if name in query}
    )
    if "limit" not in query and "offset" not in query:
        return streams.many(streams.records(folds, fields))
    start = query.get("offset", 0)
    stop = start + query["limit"] if "limit" in query else None
    head = f'{{"count":{folds.count()},"results":'.encode()
    return streams.many(streams.records(folds[start:stop], fields), head=head, tail=b"}")


def fold_record(fold: SubmissionFold, request: Request) -> dict[str, Any]:
    """A new fold as its lists will show it, without asking the database again."""
    columns = {"databoard_s": fold.databoard_s_id, "sent_by": request.user.get_username()}
    return {name: columns.get(name, getattr(fold, name, None)) for name in FOLD_FIELDS}
