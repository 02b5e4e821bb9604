"""What happens to every request before Django looks at it."""

import re
from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase


def normalise_path(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Accept the addresses that clients of the manuals send.

    The 2016 client joins `http://host/` and `/runapp/...` with a double slash; the manual's examples spell
    `rawdata` also as `raw_data`; and a POST can't be redirected to the address with its final slash.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        path = re.sub("/{2,}", "/", request.path_info)
        if path.startswith("/runapp/"):
            path = path if path.endswith("/") else path + "/"
            path = path.replace("/runapp/raw_data/", "/runapp/rawdata/", 1)
        request.path_info = path
        return get_response(request)

    return middleware
