# SPDX-License-Identifier: Apache-2.0
import pytest

from kedge_controlplane.reconcile.loop import Key
from kedge_controlplane.sessions.base import MemorySession
from kedge_controlplane.sessions.hub import Hub
from kedge_wire.v1.order_pb2 import Envelope

DEVICE = Key("default", "d-1")
ORDER = Envelope(payload=b"order")


@pytest.fixture
def changed() -> list[Key]:
    return []


@pytest.fixture
def hub(changed: list[Key]) -> Hub:
    return Hub(changed=changed.append)


def test_order_goes_to_the_device_that_it_is_for(hub: Hub) -> None:
    mine, other = MemorySession(DEVICE), MemorySession(Key("default", "d-2"))
    hub.open(mine, generation=0)
    hub.open(other, generation=0)
    assert hub.push(DEVICE, ORDER)
    assert [message.order for message in mine.sent] == [ORDER]
    assert other.sent == []


def test_device_that_is_away_gets_nothing(hub: Hub) -> None:
    assert not hub.push(DEVICE, ORDER)
    assert hub.generation(DEVICE) is None
    hub.end(DEVICE, "nobody is there")


def test_ended_session_takes_nothing(hub: Hub) -> None:
    session = MemorySession(DEVICE)
    hub.open(session, generation=0)
    hub.end(DEVICE, "first")
    hub.end(DEVICE, "second")
    assert session.ended == "first"
    assert not hub.push(DEVICE, ORDER)


def test_late_close_of_an_old_session_leaves_the_new_one(hub: Hub) -> None:
    old, new = MemorySession(DEVICE), MemorySession(DEVICE)
    hub.open(old, generation=1)
    hub.open(new, generation=2)
    hub.note_generation(old, 9)
    hub.close(old)
    assert old.ended
    assert hub.generation(DEVICE) == 2
    hub.close(new)
    assert hub.generation(DEVICE) is None


def test_only_news_is_told(hub: Hub, changed: list[Key]) -> None:
    session = MemorySession(DEVICE)
    hub.open(session, generation=1)
    hub.note_generation(session, 1)
    assert changed == [DEVICE]
    hub.note_generation(session, 2)
    assert changed == [DEVICE, DEVICE]


def test_stop_ends_every_session(hub: Hub) -> None:
    sessions = [MemorySession(Key("default", f"d-{n}")) for n in range(3)]
    for session in sessions:
        hub.open(session, generation=0)
    hub.end_all("stop")
    assert [session.ended for session in sessions] == ["stop"] * 3
