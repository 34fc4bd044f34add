# SPDX-License-Identifier: Apache-2.0
"""Query parameters of lists, watches and writes.

Parameters that change what a list means are read or refused; what only concerns other
servers (fieldManager, pretty …) is ignored, as Kubernetes ignores it. fieldValidation
is always Strict.
"""

from dataclasses import dataclass, replace
from typing import Final

from starlette.datastructures import QueryParams

from kedge_controlplane.api.selectors import parse_field_selector, parse_label_selector
from kedge_controlplane.errors import BadRequestError
from kedge_controlplane.store.page import Query

WATCH_S: Final = 1800  # where the client does not say
WATCH_LIMIT_S: Final = 3600
PAGE_LIMIT: Final = 5000

_DIGITS: Final = 18  # of a number that SQL's integers hold


@dataclass(frozen=True, slots=True, kw_only=True)
class ListParameters:
    query: Query
    watch: bool
    since: int | None  # None: begin with what there is
    timeout_s: float
    bookmarks: bool
    initial_events: bool  # end the initial ones with an annotated bookmark


def read_list(params: QueryParams, namespace: str | None) -> ListParameters:
    """Read what a list or watch asks for; raises BadRequestError."""
    fields = parse_field_selector(params.get("fieldSelector", ""))
    query = Query(
        namespace=namespace,
        name=fields.get("metadata.name"),
        selector=parse_label_selector(params.get("labelSelector", "")),
        limit=_number(params, "limit") or None,
        continue_token=params.get("continue", ""),
    )
    wanted = fields.get("metadata.namespace", namespace)
    if namespace is None:
        query = replace(query, namespace=wanted)
    elif wanted != namespace:
        raise BadRequestError(
            f"fieldSelector: expected namespace {namespace}, found {wanted:.100}"
        )
    if query.limit is not None:
        query = replace(query, limit=min(query.limit, PAGE_LIMIT))
    initial_events = _flag(params, "sendInitialEvents")
    since = _number(params, "resourceVersion")
    return ListParameters(
        query=query,
        watch=_flag(params, "watch"),
        since=None if initial_events else since or None,
        timeout_s=min(_number(params, "timeoutSeconds") or WATCH_S, WATCH_LIMIT_S),
        bookmarks=_flag(params, "allowWatchBookmarks"),
        initial_events=initial_events,
    )


def read_dry_run(params: QueryParams) -> bool:
    """Whether nothing shall be kept of a write; raises BadRequestError."""
    values = params.getlist("dryRun")
    if any(value != "All" for value in values):
        raise BadRequestError(f"dryRun: expected All, found {values!r:.100}")
    return bool(values)


def _number(params: QueryParams, name: str) -> int:
    text = params.get(name, "") or "0"
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise BadRequestError(f"{name}: expected a number, found {text!r:.100}")
    return int(text)


def _flag(params: QueryParams, name: str) -> bool:
    text = params.get(name, "false").lower()
    if text not in ("true", "false", "1", "0", ""):
        raise BadRequestError(f"{name}: expected true or false, found {text!r:.100}")
    return text in ("true", "1")
