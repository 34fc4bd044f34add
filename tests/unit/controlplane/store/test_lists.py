# SPDX-License-Identifier: Apache-2.0
"""Lists: order, pages, selectors, and how many statements they cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from kedge_controlplane.errors import BadRequestError
from kedge_controlplane.model.device import Device
from kedge_controlplane.model.selector import LabelSelector, Operator, Requirement
from kedge_controlplane.store.page import Position
from kedge_controlplane.store.store import Store
from tests.unit.controlplane.store.objects import device


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """Collect the SELECTs that readers send."""
    seen: list[str] = []

    def note(*arguments: Any) -> None:
        seen.append(arguments[2])

    engine = store._readers.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)
        seen[:] = [text for text in seen if text.startswith("SELECT")]


async def fill(store: Store, count: int) -> None:
    for number in range(count):
        site = "berlin" if number % 2 else "paris"
        await store.create(device(f"d-{number:03}", site=site, rank=str(number % 3)))


async def test_pages_are_ordered_and_cover_everything_once(store: Store) -> None:
    await fill(store, 7)
    await store.create(device("d-000", namespace="another"))
    names, token, remaining = [], "", []
    while True:
        page = await store.list(Device, limit=3, continue_token=token)
        names += [(found.namespace, found.name) for found in page.items]
        remaining.append(page.remaining)
        token = page.continue_token
        if not token:
            break
    assert names == sorted(names)
    assert len(set(names)) == 8
    assert remaining == [5, 2, None]


async def test_later_pages_carry_the_first_pages_revision(store: Store) -> None:
    await fill(store, 4)
    first = await store.list(Device, limit=2)
    await store.create(device("d-999"))
    second = await store.list(Device, limit=9, continue_token=first.continue_token)
    assert second.resource_version == first.resource_version == 4
    assert [found.name for found in second.items] == ["d-002", "d-003", "d-999"]


async def test_an_object_that_stays_is_on_some_page_whatever_else_goes(
    store: Store,
) -> None:
    await fill(store, 6)
    first = await store.list(Device, limit=3)
    await store.delete(Device, "default", "d-001")
    await store.delete(Device, "default", "d-002")
    second = await store.list(Device, limit=3, continue_token=first.continue_token)
    assert [found.name for found in second.items] == ["d-003", "d-004", "d-005"]


@pytest.mark.parametrize("token", ["x", "e30=", "WzEsMl0=", "é", "A" * 5000, "WyJhIl0"])
async def test_a_token_that_is_not_ours_is_refused(store: Store, token: str) -> None:
    with pytest.raises(BadRequestError, match="continue token"):
        await store.list(Device, continue_token=token)


@given(st.integers(0, 2**62), st.text(max_size=253), st.text(max_size=253))
def test_a_token_reads_back(version: int, namespace: str, name: str) -> None:
    position = Position(resource_version=version, namespace=namespace, name=name)
    assert Position.decode(position.encode()) == position


def requirement(key: str, operator: Operator, *values: str) -> LabelSelector:
    found = Requirement(key=key, operator=operator, values=list(values))
    return LabelSelector(match_expressions=[found])


@pytest.mark.parametrize(
    "selector",
    [
        LabelSelector(match_labels={"site": "berlin"}),
        LabelSelector(match_labels={"site": "berlin", "rank": "1"}),
        requirement("rank", Operator.IN, "0", "2"),
        requirement("rank", Operator.NOT_IN, "0", "2"),
        requirement("absent", Operator.NOT_IN, "x"),
        requirement("absent", Operator.EXISTS),
        requirement("site", Operator.EXISTS),
        requirement("site", Operator.DOES_NOT_EXIST),
    ],
    ids=lambda selector: selector.model_dump_json(exclude_defaults=True),
)
async def test_the_database_selects_what_the_selector_matches(
    store: Store, selector: LabelSelector
) -> None:
    await fill(store, 6)
    await store.create(device("bare"))
    every = (await store.list(Device)).items
    found = (await store.list(Device, selector=selector)).items
    expected = [one for one in every if selector.matches(one.metadata.labels)]
    assert found == expected


async def test_selectors_follow_changed_labels(store: Store) -> None:
    made = await store.create(device("d-1", site="berlin"))
    berlin = LabelSelector(match_labels={"site": "berlin"})
    made.metadata.labels = {"site": "paris"}
    made = await store.update(made)
    assert not (await store.list(Device, selector=berlin)).items
    made.metadata.labels = {"site": "berlin"}
    await store.update(made)
    assert len((await store.list(Device, selector=berlin)).items) == 1
    await store.delete(Device, "default", "d-1")
    await store.create(device("d-1"))
    assert not (await store.list(Device, selector=berlin)).items


@pytest.mark.parametrize("count", [1, 40])
async def test_a_list_costs_the_same_number_of_statements_whatever_its_length(
    store: Store, count: int
) -> None:
    await fill(store, count)
    with statements(store) as seen:
        await store.list(Device, selector=LabelSelector(match_labels={"rank": "0"}))
    assert len(seen) == 2  # revision, rows
    with statements(store) as seen:
        await store.list(Device, limit=1)
    assert len(seen) == (3 if count > 1 else 2)  # and how many are left


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(limit=st.integers(1, 8))
async def test_any_page_size_gives_the_same_list(store: Store, limit: int) -> None:
    if not (await store.list(Device)).items:
        await fill(store, 5)
    names, token = [], ""
    while True:
        page = await store.list(Device, limit=limit, continue_token=token)
        names += [found.name for found in page.items]
        if not (token := page.continue_token):
            break
    assert names == [f"d-{number:03}" for number in range(5)]
