# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import Engine

from kedge_controlplane.controllers.fleet import FleetController
from kedge_controlplane.model.device import Device
from kedge_controlplane.reconcile.clock import ManualClock
from kedge_controlplane.reconcile.loop import Key
from tests.simulators.controlplane import (
    NAMESPACE,
    START,
    fleet,
    migrated_store,
    named,
    release,
)


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    seen: list[str] = []

    def note(*arguments: object) -> None:
        seen.append(str(arguments[2]))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def test_queries_of_a_pass_do_not_depend_on_the_number_of_devices(
    tmp_path: Path,
) -> None:
    key = Key(NAMESPACE, "cams")
    counts: list[int] = []
    async with migrated_store(tmp_path) as store:
        await store.create(fleet("cams", await release(store, "1")))
        controller = FleetController(
            store=store, clock=ManualClock(START), listening_since=START
        )
        for size in (2, 20):
            for number in range(size):
                await store.create(Device(metadata=named(f"d-{size}-{number}")))
            for _ in range(3):  # until nothing is left to write
                await controller.reconcile(key)
            with counted_statements() as statements:
                await controller.reconcile(key)
            assert {s.split()[0] for s in statements} <= {"BEGIN", "SELECT"}
            counts.append(len(statements))
    assert counts[0] == counts[1]
