# SPDX-License-Identifier: Apache-2.0
"""Watches. A server that drains ends them at once, after what has happened already."""

import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.datastructures import QueryParams

from kedge_controlplane.api import streams
from kedge_controlplane.api.parameters import read_list
from kedge_controlplane.api.streams import Streams, View, begin
from kedge_controlplane.model.registry import BY_KIND
from kedge_controlplane.store import watch as watch_module
from kedge_controlplane.store.store import Store
from tests.unit.controlplane.api.conftest import now
from tests.unit.controlplane.api.manifests import device, fleet
from tests.unit.controlplane.api.test_lists import DEVICES, TABLE
from tests.unit.controlplane.store.objects import device as device_object

MERGE = {"content-type": "application/merge-patch+json"}
VIEW = View(kind=BY_KIND["Device"], include=None, clock=now)


def events(answer: httpx.Response) -> list[tuple[str, str]]:
    assert answer.status_code == 200, answer.text
    found = [json.loads(line) for line in answer.text.splitlines()]
    return [(event["type"], event["object"]["metadata"]["name"]) for event in found]


async def test_a_watch_tells_what_happened_since_the_list(
    api: httpx.AsyncClient, app: Starlette
) -> None:
    await api.post(DEVICES, json=device("d-1"))
    version = (await api.get(DEVICES)).json()["metadata"]["resourceVersion"]
    await api.post(DEVICES, json=device("d-2"))
    await api.post("/namespaces/other/devices", json=device("d-3"))
    await api.post("/namespaces/default/fleets", json=fleet())
    await api.delete(f"{DEVICES}/d-1")
    app.state.streams.drain()
    params = {"watch": "true", "resourceVersion": version}
    assert events(await api.get(DEVICES, params=params)) == [
        ("ADDED", "d-2"),
        ("DELETED", "d-1"),
    ]
    everywhere = events(await api.get("/devices", params=params))
    assert ("ADDED", "d-3") in everywhere


async def test_without_a_version_a_watch_begins_with_what_there_is(
    api: httpx.AsyncClient, app: Starlette
) -> None:
    await api.post(DEVICES, json=device("d-1"))
    app.state.streams.drain()
    for version in ("", "0"):
        params = {"watch": "1", "resourceVersion": version}
        assert events(await api.get(DEVICES, params=params)) == [("ADDED", "d-1")]


async def test_leaving_the_selector_is_deletion_and_entering_it_is_addition(
    api: httpx.AsyncClient, app: Starlette
) -> None:
    await api.post("/namespaces/default/fleets", json=fleet())
    await api.post(DEVICES, json=device("d-1", site="berlin"))
    for site in ("paris", "rome", "berlin", "berlin"):
        patch = {"metadata": {"labels": {"site": site, "n": site}}}
        await api.patch(f"{DEVICES}/d-1", json=patch, headers=MERGE)
    await api.delete(f"{DEVICES}/d-1")
    app.state.streams.drain()
    params = {
        "watch": "true",
        "resourceVersion": "1",
        "labelSelector": "site=berlin",
        "fieldSelector": "metadata.name=d-1",
    }
    what = [event for event, _ in events(await api.get(DEVICES, params=params))]
    assert what == ["ADDED", "DELETED", "ADDED", "DELETED"]


async def test_a_watch_of_tables_sends_rows_under_one_head(
    api: httpx.AsyncClient, app: Starlette
) -> None:
    for name in ("d-1", "d-2"):
        await api.post(DEVICES, json=device(name))
    app.state.streams.drain()
    params = {"watch": "true", "allowWatchBookmarks": "true"}
    answer = await api.get(DEVICES, params=params, headers=TABLE)
    tables = [json.loads(line)["object"] for line in answer.text.splitlines()]
    assert [bool(one["columnDefinitions"]) for one in tables] == [True, False]
    assert [one["rows"][0]["cells"][0] for one in tables] == ["d-1", "d-2"]


async def test_initial_events_end_with_an_annotated_bookmark(
    api: httpx.AsyncClient, app: Starlette
) -> None:
    await api.post(DEVICES, json=device("d-1"))
    app.state.streams.drain()
    params = {
        "watch": "true",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    answer = await api.get(DEVICES, params=params)
    first, second = [json.loads(line) for line in answer.text.splitlines()]
    assert first["type"] == "ADDED"
    assert second["type"] == "BOOKMARK"
    metadata = second["object"]["metadata"]
    assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert metadata["resourceVersion"] == "1"


async def lines(store: Store, query: str) -> Any:
    parameters = read_list(QueryParams(query), "default")
    return await begin(store, Streams(), parameters, VIEW)


async def test_a_quiet_watch_sends_bookmarks_and_ends_in_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BOOKMARK_S", 0.01)
    await store.create(device_object("d-1"))
    query = "watch=true&allowWatchBookmarks=true&resourceVersion=1&timeoutSeconds=1"
    watch = await lines(store, query)
    first = json.loads(await anext(watch))
    assert first["type"] == "BOOKMARK"
    assert first["object"]["metadata"]["resourceVersion"] == "1"
    rest = [json.loads(line)["type"] async for line in watch]
    assert set(rest) == {"BOOKMARK"}


async def test_a_watch_among_others_events_sends_bookmarks_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BOOKMARK_S", 0.0)
    watch = await lines(
        store,
        "watch=true&allowWatchBookmarks=true&resourceVersion=0&labelSelector=no=one",
    )
    for number in range(3):
        await store.create(device_object(f"d-{number}"))
    seen = [json.loads(await anext(watch)) for _ in range(3)]
    assert {line["type"] for line in seen} == {"BOOKMARK"}
    await watch.aclose()


async def test_a_version_that_the_database_never_had_is_expired(
    api: httpx.AsyncClient, store: Store
) -> None:
    await store.create(device_object("d-1"))
    answer = await api.get(DEVICES, params={"watch": "true", "resourceVersion": "2"})
    assert answer.status_code == 410
    assert "too new" in answer.json()["message"]


async def test_a_version_from_before_the_log_is_expired(
    api: httpx.AsyncClient, store: Store
) -> None:
    store._log._oldest = 5  # as after a restart
    answer = await api.get(DEVICES, params={"watch": "true", "resourceVersion": "4"})
    assert answer.status_code == 410
    assert answer.json()["reason"] == "Expired"


async def test_a_slow_reader_is_told_to_list_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "BACKLOG_LIMIT", 2)
    await store.create(device_object("d-0"))
    watch = await lines(store, "watch=true&resourceVersion=1")
    for number in range(1, 5):
        await store.create(device_object(f"d-{number}"))
    (only,) = [json.loads(line) async for line in watch]
    assert only["type"] == "ERROR"
    assert only["object"]["reason"] == "Expired"
