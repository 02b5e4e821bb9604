"""The pages of the project; the API itself is in runapp.urls."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from runapp import status_views

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="docs")),
    path("admin/", admin.site.urls),
    path("api-auth/", include("rest_framework.urls")),
    path("docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("docs/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("healthz", status_views.Alive.as_view()),
    path("metrics", status_views.Metrics.as_view()),
    path("readyz", status_views.Ready.as_view()),
    path("runapp/", include("runapp.urls")),
]

handler404 = "runapp.errors.not_found"
handler500 = "runapp.errors.server_error"
