"""HTTP only: what waits, and why; what is there, and whether it works."""

from datetime import UTC, datetime
from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema, inline_serializer
from prometheus_client import CONTENT_TYPE_LATEST
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from runapp import services
from runapp.base import ApiView
from runapp.models import RawData, Runner
from runapp.serializers import MAX_ID
from runapp.services.metrics import metrics
from runapp.services.readiness import OK, readiness
from runapp.strict import StrictSerializer
from runapp.views import REFUSALS, answers


class BusySerializer(serializers.Serializer[Any]):
    """What a slot runs: a fold, or the split of a data set."""

    databoard_sf_id = serializers.IntegerField(allow_null=True)
    raw_data_id = serializers.IntegerField(allow_null=True)
    since = serializers.SerializerMethodField()

    def get_since(self, busy: dict[str, Any]) -> datetime:
        """By the runner's clock."""
        return datetime.fromtimestamp(busy["since"], UTC)


class RunnerSerializer(serializers.ModelSerializer[Runner]):
    """queues: that it takes work from now; configured: that it does when nothing is wrong."""

    state = serializers.CharField(help_text="up, silent, stopped, stopping or no share")
    heartbeat = serializers.DateTimeField(source="heartbeat_at")
    queues = serializers.ListField(child=serializers.CharField())
    configured = serializers.ListField(child=serializers.CharField())
    busy = BusySerializer(many=True)

    class Meta:
        model = Runner
        fields = (
            "name",
            "state",
            "heartbeat",
            "queues",
            "configured",
            "slots",
            "busy",
            "soft_time_limit",
            "hard_time_limit",
            "version",
            "started_at",
        )


class WaitingSerializer(serializers.Serializer[Any]):
    databoard_sf_id = serializers.IntegerField()
    state = serializers.CharField(help_text="in words")
    position = serializers.IntegerField(allow_null=True, help_text="in its queue, from 1; null where it is not in it")
    ahead = serializers.IntegerField(allow_null=True)
    runners = RunnerSerializer(many=True, help_text="that serve its queue")
    estimate = serializers.FloatField(allow_null=True, help_text="seconds until it begins")
    estimate_reason = serializers.CharField(allow_blank=True, help_text="why there is no estimate")


class RunnerList(ApiView):
    """The runners that were heard in the last seven days."""

    @extend_schema(responses=answers(200, RunnerSerializer(many=True), 400))
    def get(self, request: Request) -> Response:
        return Response(RunnerSerializer(Runner.objects.all(), many=True).data)


class PackageSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="of the distribution, as pip normalises it: lower case, with hyphens")
    version = serializers.CharField()
    modules = serializers.ListField(child=serializers.CharField(), help_text="what `import` finds, at the top level")
    runners = serializers.ListField(child=serializers.CharField(), help_text="those that have this version")


class PackagesQuerySerializer(StrictSerializer):
    raw_data = serializers.IntegerField(
        min_value=0, max_value=MAX_ID, required=False, help_text="a data set; today all have the same packages"
    )

    def validate_raw_data(self, pk: int) -> int:
        if not RawData.objects.filter(pk=pk).exists():
            raise ValidationError(f"There is no data set {pk}; GET /runapp/rawdata/ lists them.")
        return pk


class PackageList(ApiView):
    """The packages that submissions can import, as the runners report them: an entry for each version."""

    query = PackagesQuerySerializer

    @extend_schema(
        operation_id="runapp_packages_list",
        parameters=[PackagesQuerySerializer],
        responses=answers(200, PackageSerializer(many=True), 400),
    )
    def get(self, request: Request) -> Response:
        return Response(PackageSerializer(services.packages(), many=True).data)


class SubmissionFoldQueue(ApiView):
    """Why a fold is waiting, and for how long."""

    @extend_schema(responses=answers(200, WaitingSerializer, 400, 404))
    def get(self, request: Request, pk: int) -> Response:
        said = services.explain(pk)
        if said is None:
            raise NotFound(f"There is no fold {pk}.")
        return Response(WaitingSerializer(said).data)


class OneFormat(BaseContentNegotiation):
    """Whatever the caller accepts: a load balancer may ask for anything."""

    def select_parser(self, request: Any, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


class OpenView(APIView):
    """For those that have no credentials: load balancers and supervisors."""

    authentication_classes = ()
    permission_classes = ()
    renderer_classes = (JSONRenderer,)
    content_negotiation_class = OneFormat


class Alive(OpenView):
    """The web server answers. Touches nothing else."""

    @extend_schema(
        auth=[], responses=inline_serializer("Alive", {"alive": serializers.BooleanField()}), operation_id="healthz"
    )
    def get(self, request: Request) -> Response:
        return Response({"alive": True})


READY = inline_serializer(
    "Ready",
    {
        name: serializers.CharField(help_text="ok, or what is wrong")
        for name in ("database", "broker", "cache", "share")
    },
)


class Ready(OpenView):
    """Whether database, broker, cache and share work: looked at now, for two seconds at most."""

    @extend_schema(
        auth=[],
        operation_id="readyz",
        responses={200: READY, 503: OpenApiResponse(READY, description="A part does not work")},
    )
    def get(self, request: Request) -> Response:
        parts = readiness()
        return Response(parts, status=200 if all(said == OK for said in parts.values()) else 503)


class Metrics(APIView):
    """What an operator alarms on, for Prometheus. Needs credentials."""

    content_negotiation_class = OneFormat

    @extend_schema(
        operation_id="metrics",
        responses={(200, "text/plain"): OpenApiTypes.STR} | {status: REFUSALS[status] for status in (401, 403, 429)},
    )
    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(metrics(), content_type=CONTENT_TYPE_LATEST)
