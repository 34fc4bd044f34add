# SPDX-License-Identifier: Apache-2.0
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from kedge_controlplane.model.device import Device, UpdatedStatus
from kedge_controlplane.model.fleet import (
    Batch,
    DeviceSelection,
    Fleet,
    RolloutPolicy,
)
from kedge_controlplane.model.meta import Condition
from kedge_controlplane.model.rollout import (
    BatchPhase,
    Rollout,
    RolloutPhase,
    RolloutSpec,
)
from kedge_controlplane.model.template_version import TemplateVersion
from kedge_wire.v1.order_pb2 import Order
from kedge_wire.v1.report_pb2 import Report
from tests.simulators.controlplane import fleet, named, release
from tests.simulators.enrolled_device import rolled_back, succeeded
from tests.unit.controlplane.controllers.world import World, running_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as world:
        yield world


def canary(
    *limits: int | str, threshold: str = "100%", timeout: str = "24h"
) -> RolloutPolicy:
    return RolloutPolicy(
        device_selection=DeviceSelection(
            sequence=[Batch(name=f"b{n}", limit=x) for n, x in enumerate(limits)]
        ),
        success_threshold=threshold,
        default_update_timeout=timeout,
    )


def silent(order: Order) -> Report | None:
    del order
    return None


def condition(found: Fleet, kind: str) -> Condition | None:
    return next((c for c in found.status.conditions if c.type == kind), None)


async def change_release(world: World, name: str, to: str) -> None:
    stored = await world.get(Fleet, name)
    stored.spec.template.spec.release = to
    stored.metadata.resource_version = None
    await world.store.update(stored)


async def test_fleet_reaches_every_device_batch_by_batch(world: World) -> None:
    devices = [await world.add_device(f"d{n}") for n in range(3)]
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted, policy=canary(1)))
    rollout = await world.until_phase("cams-1", RolloutPhase.COMPLETED)
    assert [batch.devices for batch in rollout.status.batches] == [
        ["d0"],
        ["d1", "d2"],
    ]
    assert {batch.phase for batch in rollout.status.batches} == {BatchPhase.COMPLETED}
    found = await world.until_fleet("cams", lambda f: f.status.devices.up_to_date == 3)
    template = await world.get(TemplateVersion, found.status.template_version)
    assert found.status.rollout == "cams-1"
    assert template.spec.release == wanted
    for device in devices:
        assert [order.template_version for order in device.orders] == [template.name]
        stored = await world.get(Device, device.device.name)
        assert stored.spec.fleet == "cams"
        assert stored.status.updated.status is UpdatedStatus.UP_TO_DATE


async def test_failed_canary_halts_the_rollout(world: World) -> None:
    await world.add_device("d0", answer=rolled_back)
    others = [await world.add_device(f"d{n}") for n in (1, 2)]
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted, policy=canary(1)))
    rollout = await world.until_phase("cams-1", RolloutPhase.PAUSED)
    assert rollout.status.message == ("batch b0: 1 of 1 devices must succeed, 1 failed")
    assert rollout.status.batches[0].phase is BatchPhase.FAILED
    await world.resync()
    assert all(not device.orders for device in others)
    found = await world.until_fleet("cams", lambda f: f.status.devices.failed == 1)
    assert found.status.devices.total == 3


async def test_device_that_never_answers_fails_its_batch_in_time(world: World) -> None:
    device = await world.add_device("d0", answer=silent)
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted, policy=canary(timeout="10m")))
    await world.until(Device, "d0", lambda d: d.status.order.generation == 1)
    await world.resync()
    assert len(device.orders) == 1
    world.clock.advance(timedelta(minutes=10))
    await world.until_phase("cams-1", RolloutPhase.PAUSED)


async def test_new_template_supersedes_a_halted_rollout(world: World) -> None:
    broken = await world.add_device("d0", answer=rolled_back)
    await world.add_device("d1")
    first, second = await release(world.store, "1"), await release(world.store, "2")
    await world.store.create(fleet("cams", first, policy=canary(1)))
    await world.until_phase("cams-1", RolloutPhase.PAUSED)
    broken.answer = succeeded
    await change_release(world, "cams", second)
    await world.until_phase("cams-2", RolloutPhase.COMPLETED)
    old = await world.until_phase("cams-1", RolloutPhase.ABORTED)
    assert "superseded by cams-2" in old.status.message
    assert [order.generation for order in broken.orders] == [1, 2]


async def test_going_back_finds_the_earlier_template_version(world: World) -> None:
    await world.add_device("d0")
    first, second = await release(world.store, "1"), await release(world.store, "2")
    await world.store.create(fleet("cams", first))
    await world.until_phase("cams-1", RolloutPhase.COMPLETED)
    await change_release(world, "cams", second)
    await world.until_phase("cams-2", RolloutPhase.COMPLETED)
    await change_release(world, "cams", first)
    third = await world.until_phase("cams-3", RolloutPhase.COMPLETED)
    earlier = await world.get(Rollout, "cams-1")
    assert third.spec.template_version == earlier.spec.template_version
    assert earlier.status.phase is RolloutPhase.COMPLETED
    assert len((await world.store.list(TemplateVersion)).items) == 2


async def test_late_device_is_brought_to_the_completed_template(world: World) -> None:
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted, labels={"site": "lab"}))
    await world.until_phase("cams-1", RolloutPhase.COMPLETED)
    late = await world.add_device("d9", labels={"site": "lab"})
    stranger = await world.add_device("d8", labels={"site": "roof"})
    await world.until_fleet("cams", lambda f: f.status.devices.up_to_date == 1)
    assert len(late.orders) == 1
    assert not stranger.orders


async def test_older_fleet_keeps_a_device_that_two_select(world: World) -> None:
    wanted = await release(world.store, "1")
    await world.add_device("d0", labels={"site": "lab"})
    await world.store.create(fleet("a-cams", wanted, labels={"site": "lab"}))
    await world.store.create(fleet("b-all", wanted))
    await world.until_fleet("a-cams", lambda f: f.status.devices.up_to_date == 1)
    younger = await world.until_fleet(
        "b-all",
        lambda f: (
            (c := condition(f, "MultipleOwners")) is not None and c.status == "True"
        ),
    )
    found = condition(younger, "MultipleOwners")
    assert found is not None
    assert "d0" in found.message
    assert younger.status.devices.total == 0
    await world.store.delete(Fleet, "default", "a-cams")
    await world.until(Device, "d0", lambda d: d.spec.fleet == "b-all")


async def test_dangling_release_is_said_and_mended_by_its_creation(
    world: World,
) -> None:
    await world.add_device("d0")
    await world.store.create(fleet("cams", "digits-r1"))
    found = await world.until_fleet(
        "cams", lambda f: condition(f, "SpecValid") is not None
    )
    invalid = condition(found, "SpecValid")
    assert invalid is not None
    assert invalid.status == "False"
    assert "Release digits-r1" in invalid.message
    await release(world.store, "1")
    await world.until_phase("cams-1", RolloutPhase.COMPLETED)
    valid = condition(await world.get(Fleet, "cams"), "SpecValid")
    assert valid is not None
    assert valid.status == "True"


async def test_template_that_no_longer_resolves_does_not_stop_its_rollout(
    world: World,
) -> None:
    slow = await world.add_device("d0", answer=silent)
    await world.add_device("d1")
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted, policy=canary(1)))
    await world.until(Device, "d0", lambda d: d.status.order.generation == 1)
    await change_release(world, "cams", "missing")
    await world.until_fleet(
        "cams",
        lambda f: (c := condition(f, "SpecValid")) is not None and c.status == "False",
    )
    await slow.report(succeeded(slow.orders[0]))
    await world.until_phase("cams-1", RolloutPhase.COMPLETED)


async def test_deleted_fleet_stops_its_rollout(world: World) -> None:
    await world.add_device("d0", answer=silent)
    other = await world.add_device("d1")
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted, policy=canary(1)))
    await world.until(Device, "d0", lambda d: d.status.order.generation == 1)
    await world.store.delete(Fleet, "default", "cams")
    ended = await world.until_phase("cams-1", RolloutPhase.ABORTED)
    assert ended.status.message == "the fleet is gone"
    assert not other.orders


async def test_deleted_rollout_is_made_again(world: World) -> None:
    broken = await world.add_device("d0", answer=rolled_back)
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted))
    await world.until_phase("cams-1", RolloutPhase.PAUSED)
    await world.store.delete(Rollout, "default", "cams-1")
    await world.until_phase("cams-1", RolloutPhase.PAUSED)
    assert len(broken.orders) == 1


async def test_controllers_that_crashed_go_on_where_they_were(world: World) -> None:
    first = await world.add_device("d0", answer=silent)
    await world.add_device("d1")
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted, policy=canary(1)))
    await world.until(Device, "d0", lambda d: d.status.order.generation == 1)
    await world.resync()
    await world.restart()
    await first.report(succeeded(first.orders[0]))
    await world.until_phase("cams-1", RolloutPhase.COMPLETED)
    assert len((await world.store.list(Rollout)).items) == 1
    assert len(first.orders) == 1


async def test_device_that_recovers_lets_its_rollout_go_on(world: World) -> None:
    broken = await world.add_device("d0", answer=rolled_back)
    slow = await world.add_device("d1", answer=silent)
    other = await world.add_device("d2")
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted, policy=canary(2)))
    await world.until_phase("cams-1", RolloutPhase.PAUSED)
    await broken.report(succeeded(broken.orders[0]))
    going_on = await world.until_phase("cams-1", RolloutPhase.PROGRESSING)
    [batch, _] = going_on.status.batches
    assert (batch.phase, batch.failed) == (BatchPhase.PROGRESSING, 0)
    assert not other.orders
    await world.until(Device, "d1", lambda d: d.status.order.generation == 1)
    await world.resync()
    await slow.report(succeeded(slow.orders[0]))
    await world.until_phase("cams-1", RolloutPhase.COMPLETED)
    assert len(other.orders) == 1


async def test_outage_of_the_control_plane_fails_no_device(world: World) -> None:
    slow = await world.add_device("d0", answer=silent)
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted, policy=canary(timeout="10m")))
    await world.until(Device, "d0", lambda d: d.status.order.generation == 1)
    await world.resync()
    await world.stop()
    world.clock.advance(timedelta(hours=2))
    world.start()
    await world.resync()
    running = await world.get(Rollout, "cams-1")
    assert running.status.phase is RolloutPhase.PROGRESSING
    await slow.report(succeeded(slow.orders[0]))
    await world.until_phase("cams-1", RolloutPhase.COMPLETED)


async def test_canary_that_selects_nobody_holds_the_fleet_until_it_does(
    world: World,
) -> None:
    device = await world.add_device("d0")
    policy = canary(1)
    policy.device_selection.sequence[0].selector.match_labels["ring"] = "canary"
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted, policy=policy))
    halted = await world.until_phase("cams-1", RolloutPhase.PAUSED)
    assert halted.status.message == "batch b0: no device matches"
    await world.resync()
    assert not device.orders
    first = await world.add_device("d9", labels={"ring": "canary"})
    done = await world.until_phase("cams-1", RolloutPhase.COMPLETED)
    assert [batch.devices for batch in done.status.batches] == [["d9"], ["d0"]]
    assert len(first.orders) == len(device.orders) == 1


async def test_fleet_deleted_while_nobody_watched_stops_its_rollout(
    world: World,
) -> None:
    await world.add_device("d0", answer=silent)
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted))
    await world.until(Device, "d0", lambda d: d.status.order.generation == 1)
    await world.resync()
    await world.stop()
    await world.store.delete(Fleet, "default", "cams")
    world.start()
    ended = await world.until_phase("cams-1", RolloutPhase.ABORTED)
    assert ended.status.message == "the fleet is gone"


async def test_deleted_template_version_in_use_is_made_again(world: World) -> None:
    await world.add_device("d0")
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted))
    done = await world.until_phase("cams-1", RolloutPhase.COMPLETED)
    name = done.spec.template_version
    before = await world.get(TemplateVersion, name)
    await world.store.delete(TemplateVersion, "default", name)
    again = await world.until(
        TemplateVersion, name, lambda t: t.metadata.uid != before.metadata.uid
    )
    assert again.spec == before.spec
    assert len((await world.store.list(Rollout)).items) == 1


async def test_rollout_of_another_fleet_may_have_the_name_that_is_next(
    world: World,
) -> None:
    wanted = await release(world.store, "1")
    other = RolloutSpec(fleet="other", template_version="other-1")
    await world.store.create(Rollout(metadata=named("cams-1"), spec=other))
    huge = f"cams-{10**20}"
    await world.store.create(Rollout(metadata=named(huge), spec=other))
    await world.store.create(fleet("cams", wanted))
    mine = await world.until_phase("cams-2", RolloutPhase.COMPLETED)
    assert mine.spec.fleet == "cams"


async def test_history_of_a_fleet_is_kept_short(world: World) -> None:
    releases = [await release(world.store, str(number)) for number in range(1, 13)]
    lab = {"site": "lab"}
    await world.add_device("d0", labels=lab)
    left = await world.add_device("d1", labels=lab)
    await world.store.create(fleet("cams", releases[0], labels=lab))
    done = await world.until_phase("cams-1", RolloutPhase.COMPLETED)
    relabelled = await world.get(Device, "d1")
    relabelled.metadata.labels = {}
    relabelled.metadata.resource_version = None
    await world.store.update(relabelled)
    for number, wanted in enumerate(releases[1:], start=2):
        await change_release(world, "cams", wanted)
        await world.until_phase(f"cams-{number}", RolloutPhase.COMPLETED)
    await world.resync()
    rollouts = (await world.store.list(Rollout)).items
    assert {r.name for r in rollouts} == {f"cams-{n}" for n in range(3, 13)}
    templates = {t.name for t in (await world.store.list(TemplateVersion)).items}
    in_use = {r.spec.template_version for r in rollouts} | {done.spec.template_version}
    assert templates == in_use
    assert len(left.orders) == 1


async def test_pass_without_news_writes_nothing(world: World) -> None:
    await world.add_device("d0")
    wanted = await release(world.store, "1")
    await world.store.create(fleet("cams", wanted))
    await world.until_fleet("cams", lambda f: f.status.devices.up_to_date == 1)
    await world.resync()
    before = await world.store.revision()
    await world.resync()
    assert await world.store.revision() == before


async def test_devices_of_a_deleted_fleet_name_it_no_more_and_run_on(
    world: World,
) -> None:
    device = await world.add_device("d0")
    await world.store.create(fleet("cams", await release(world.store, "1")))
    done = await world.until_phase("cams-1", RolloutPhase.COMPLETED)
    await world.store.delete(Fleet, "default", "cams")
    freed = await world.until(Device, "d0", lambda d: not d.spec.fleet)
    await world.resync()
    assert freed.spec.template_version == done.spec.template_version
    kept = await world.get(TemplateVersion, done.spec.template_version)
    assert kept.spec.release
    assert len(device.orders) == 1


async def test_fleet_deleted_while_nobody_watched_lets_its_devices_go(
    world: World,
) -> None:
    await world.add_device("d0")
    await world.store.create(fleet("cams", await release(world.store, "1")))
    await world.until_phase("cams-1", RolloutPhase.COMPLETED)
    await world.resync()
    await world.stop()
    await world.store.delete(Fleet, "default", "cams")
    world.start()
    await world.until(Device, "d0", lambda d: not d.spec.fleet)
