"""What schemathesis has to be told about the REST API, because JSON Schema cannot say it; see test_openapi.py.

Loaded by the process of schemathesis.
"""

import os
from typing import Any
from urllib.parse import unquote

import requests
import schemathesis
from hypothesis import strategies as st

from luna_grpc.model import RESERVED_NAMES

SIGNED_IN = bool(os.environ["SIGNED_IN"])
"""Whether anything may be changed."""
SHOWN = st.characters(exclude_categories=("C", "Z"))
LABEL = st.from_regex(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,10}[A-Za-z0-9_])?", fullmatch=True)
DOMAIN = st.one_of(
    st.lists(LABEL, min_size=1, max_size=3).map(".".join).filter(lambda domain: not domain.replace(".", "").isdigit()),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
PORT = st.integers(1, 65535).map(str)
IDS = st.tuples(st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True), DOMAIN, PORT).map(":".join)
URLS = st.builds(
    "{}://{}:{}/{}".format, st.sampled_from(["http", "https", "HTTP"]), DOMAIN, PORT, st.text(SHOWN, max_size=20)
).filter(lambda url: "\\" not in url)

schemathesis.openapi.format("instance-id", IDS)
schemathesis.openapi.format("printable", st.text(SHOWN, min_size=1, max_size=30))
schemathesis.openapi.format("http-url", URLS)


@schemathesis.hook
def filter_case(_: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """Leave out what is another path, as `/services/json` is not the service of that name, and what never ends."""
    if case.path == "/registry/v1/changes" and "once" not in (case.query or {}):
        return False
    return (case.path_parameters or {}).get("name") not in RESERVED_NAMES


@schemathesis.hook
def before_call(_: schemathesis.HookContext, case: schemathesis.Case[Any], __: dict[str, Any]) -> None:
    """Say the same id in the body as in the path where both are right, and have what is asked for.

    That is no live lease where one is to be registered, and an instance of a service that is to be shown.
    """
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if positive and isinstance(case.body, dict):
        case.body["instanceId"] = unquote(case.path_parameters["instanceId"])
    if SIGNED_IN and positive and "name" in (case.path_parameters or {}):
        instances = case.as_transport_kwargs()["url"].partition("/services/")[0] + "/instances/"
        known = {"instanceId": "known:localhost:1", "version": "1", "url": "http://localhost:1/", "status": "OK"}
        requests.delete(instances + known["instanceId"], auth=("admin", ""), timeout=10)
        said = known | {"name": unquote(case.path_parameters["name"])}
        requests.post(instances + known["instanceId"], json=said, auth=("admin", ""), timeout=10)
    if case.method.upper() == "POST":
        requests.delete(case.as_transport_kwargs()["url"], auth=("admin", ""), timeout=10)
