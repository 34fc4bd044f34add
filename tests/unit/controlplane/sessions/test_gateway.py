# SPDX-License-Identifier: Apache-2.0
import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest

from kedge_controlplane.model.device import Device, SummaryStatus
from kedge_controlplane.reconcile.clock import SystemClock
from kedge_controlplane.reconcile.loop import Key
from kedge_controlplane.sessions.grpc import (
    MAX_MESSAGE_BYTES,
    OUTBOUND,
    Gateway,
    GatewayServer,
    ServerKeys,
)
from kedge_controlplane.sessions.hub import Hub
from kedge_controlplane.sessions.ingest import Ingest
from kedge_controlplane.sessions.leases import LeaseBook
from kedge_controlplane.store import certificates
from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.ca import CertificateAuthority, ServerCertificate
from kedge_wire.v1.order_pb2 import Envelope, Order
from kedge_wire.v1.report_pb2 import PHASE_UPDATED, Report
from kedge_wire.v1.session_pb2 import Beat, DeviceMessage
from tests.simulators.controlplane import enrol, migrated_store
from tests.simulators.enrolled_device import Identity, Session, SimulatedDevice


@dataclass(slots=True, kw_only=True)
class Server:
    store: Store
    authority: CertificateAuthority
    hub: Hub
    leases: LeaseBook
    address: str
    changed: asyncio.Queue[Key]
    listening: GatewayServer

    @property
    def endpoint(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    async def device(self) -> SimulatedDevice:
        return self.simulate(await enrol(self.store, self.authority))

    def simulate(self, identity: Identity) -> SimulatedDevice:
        return SimulatedDevice(identity=identity, gateway=self.address)

    async def stored(self, device: SimulatedDevice) -> Device:
        identity = device.identity
        return await self.store.get(Device, identity.namespace, identity.device)


def server_keys(authority: CertificateAuthority, own: ServerCertificate) -> ServerKeys:
    return ServerKeys(
        key_pem=own.key_pem,
        chain_pem=own.chain_pem,
        devices_root_pem=authority.root_pem,
    )


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    clock = SystemClock()
    authority = CertificateAuthority.open(tmp_path / "trust", now=clock.now())
    own = authority.server_certificate(["127.0.0.1"], now=clock.now())
    changed: asyncio.Queue[Key] = asyncio.Queue()
    async with migrated_store(tmp_path) as store:
        hub = Hub(changed=changed.put_nowait)
        leases = LeaseBook(
            store=store,
            clock=clock,
            offline_after=timedelta(seconds=45),
            every=timedelta(seconds=5),
        )
        gateway = Gateway(
            store=store,
            hub=hub,
            ingest=Ingest(store=store, clock=clock),
            leases=leases,
            hello_within=timedelta(seconds=0.5),
        )
        listening = GatewayServer(gateway, keys=server_keys(authority, own))
        port = await listening.start("127.0.0.1:0")
        yield Server(
            store=store,
            authority=authority,
            hub=hub,
            leases=leases,
            address=f"127.0.0.1:{port}",
            changed=changed,
            listening=listening,
        )
        await listening.stop(grace=timedelta())


def key_of(device: SimulatedDevice) -> Key:
    return Key(device.identity.namespace, device.identity.device)


async def opened(server: Server, session: Session) -> None:
    """Greet, and wait until the server knows the session."""
    await session.greet()
    async with asyncio.timeout(10):
        await server.changed.get()


async def test_hello_opens_a_session_and_stores_the_facts(server: Server) -> None:
    device = await server.device()
    device.generation = 7
    async with device.connect() as session:
        await opened(server, session)
        assert server.hub.generation(key_of(device)) == 7
        assert server.leases.fresh(key_of(device))
        info = (await server.stored(device)).status.system_info
        assert (info.hostname, info.architecture, info.cpus) == ("sim", "x86_64", 2)


async def test_report_is_stored_when_it_is_acknowledged(server: Server) -> None:
    device = await server.device()
    async with device.connect() as session:
        await opened(server, session)
        await session.report(Report(generation=1, phase=PHASE_UPDATED))
        stored = await server.stored(device)
        assert stored.status.report_sequence == 1
        assert stored.status.summary.status is SummaryStatus.ONLINE
        assert server.hub.generation(key_of(device)) == 1


async def test_old_report_is_acknowledged_and_dropped(server: Server) -> None:
    device = await server.device()
    async with device.connect() as session:
        await opened(server, session)
        await session.report(Report(generation=2, serving_http="new"))
        session.sequence = 0
        await session.report(Report(generation=1, serving_http="old"))
        assert (await server.stored(device)).status.serving.http == "new"


async def test_device_restored_from_an_older_image_is_believed(server: Server) -> None:
    device = await server.device()
    device.sequence = 40
    async with device.connect() as session:
        await opened(server, session)
        await session.report(Report(generation=2, serving_http="before"))
    device.sequence = 3
    async with device.connect() as session:
        await opened(server, session)
        await session.report(Report(generation=1, serving_http="restored"))
        await session.report(Report(generation=1, serving_http="and on"))
    stored = await server.stored(device)
    assert stored.status.serving.http == "and on"
    assert stored.status.report_sequence == 5


async def test_renewed_keys_are_shown_to_the_next_connection(server: Server) -> None:
    device = await server.device()
    renewed = server.authority.server_certificate(
        ["127.0.0.1", "::1"], now=datetime.now(UTC)
    )
    async with device.connect() as before:
        await opened(server, before)
        shown = await asyncio.to_thread(ssl.get_server_certificate, server.endpoint)
        server.listening.renew(server_keys(server.authority, renewed))
        now_shown = await asyncio.to_thread(ssl.get_server_certificate, server.endpoint)
        assert shown != now_shown
        assert now_shown.strip() in renewed.chain_pem.decode()
        await before.report(Report(generation=1))
    async with device.connect() as after:
        await opened(server, after)


async def test_beat_tells_the_generation_and_writes_nothing(server: Server) -> None:
    device = await server.device()
    async with device.connect() as session:
        await opened(server, session)
        before = await server.store.revision()
        session.generation = 9
        await session.beat()
        async with asyncio.timeout(10):
            assert await server.changed.get() == key_of(device)
        assert server.hub.generation(key_of(device)) == 9
        assert await server.store.revision() == before


async def test_pushed_order_reaches_the_device(server: Server) -> None:
    device = await server.device()
    order = Order(generation=3, device=device.identity.device)
    async with device.connect() as session:
        await opened(server, session)
        pushed = server.hub.push(
            key_of(device), Envelope(payload=order.SerializeToString())
        )
        assert pushed
        assert await session.receive_order() == order


async def test_push_to_a_device_that_is_away_is_refused(server: Server) -> None:
    device = await server.device()
    assert not server.hub.push(key_of(device), Envelope())


async def test_second_session_ends_the_first(server: Server) -> None:
    device = await server.device()
    async with device.connect() as first, device.connect() as second:
        await opened(server, first)
        await opened(server, second)
        code, details = await first.status()
        assert code is grpc.StatusCode.ABORTED
        assert "another session" in details
        await second.report(Report(generation=1))
        assert server.hub.generation(key_of(device)) == 1


async def test_closed_session_is_forgotten(server: Server) -> None:
    device = await server.device()
    async with device.connect() as session:
        await opened(server, session)
        await session.close()
        assert await session.status() == (grpc.StatusCode.OK, "")
    assert server.hub.generation(key_of(device)) is None


async def test_silent_device_is_hung_up_on(server: Server) -> None:
    device = await server.device()
    async with device.connect() as session:
        code, details = await session.status()
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "Hello" in details


async def test_first_message_must_be_hello(server: Server) -> None:
    device = await server.device()
    async with device.connect() as session:
        await session.send(DeviceMessage(beat=Beat(generation=1)))
        assert (await session.status())[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_second_hello_is_refused(server: Server) -> None:
    device = await server.device()
    async with device.connect() as session:
        await opened(server, session)
        await session.greet()
        assert (await session.status())[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_other_protocol_is_named(server: Server) -> None:
    device = await server.device()
    async with device.connect() as session:
        await session.greet(protocol=99)
        code, details = await session.status()
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "found 99" in details


async def test_message_that_is_too_long_ends_the_session(server: Server) -> None:
    device = await server.device()
    async with device.connect() as session:
        await opened(server, session)
        report = Report(serving_http="x" * MAX_MESSAGE_BYTES)
        await session.send(DeviceMessage(report=report))
        assert (await session.status())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_revoked_certificate_is_refused(server: Server) -> None:
    device = await server.device()
    identity = device.identity
    await server.store.write(
        lambda tx: certificates.revoke_device(
            tx, identity.namespace, identity.device, at=datetime.now(UTC)
        )
    )
    async with device.connect() as session:
        code, details = await session.status()
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "revoked" in details


async def test_deleted_device_is_refused(server: Server) -> None:
    device = await server.device()
    identity = device.identity
    await server.store.delete(Device, identity.namespace, identity.device)
    async with device.connect() as session:
        await session.greet()
        code, details = await session.status()
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "no such device" in details


async def test_device_deleted_during_its_session_is_thrown_out(server: Server) -> None:
    device = await server.device()
    identity = device.identity
    async with device.connect() as session:
        await opened(server, session)
        await server.store.delete(Device, identity.namespace, identity.device)
        await session.send(DeviceMessage(report=Report(sequence=1)))
        assert (await session.status())[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_certificate_of_the_server_opens_no_session(server: Server) -> None:
    device = await server.device()
    own = server.authority.server_certificate(["127.0.0.1"], now=datetime.now(UTC))
    posing = replace(
        device.identity, key_pem=own.key_pem, certificate_pem=own.chain_pem
    )
    async with server.simulate(posing).connect() as session:
        assert (await session.status())[0] in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.UNAUTHENTICATED,
        )


async def test_certificate_of_another_authority_opens_no_session(
    server: Server, tmp_path: Path
) -> None:
    device = await server.device()
    other = CertificateAuthority.open(tmp_path / "other", now=datetime.now(UTC))
    async with migrated_store(tmp_path / "other") as store:
        stranger = await enrol(store, other)
    posing = replace(stranger, root_pem=device.identity.root_pem)
    async with server.simulate(posing).connect() as session:
        assert (await session.status())[0] is grpc.StatusCode.UNAVAILABLE


async def test_device_that_does_not_read_loses_its_session(server: Server) -> None:
    device = await server.device()
    large = Envelope(payload=bytes(512 * 1024))
    async with device.connect() as session:
        await opened(server, session)
        pushed = [server.hub.push(key_of(device), large) for _ in range(OUTBOUND + 1)]
        assert pushed == [True] * OUTBOUND + [False]
        code, details = await session.status()
        assert code is grpc.StatusCode.ABORTED
        assert "does not read" in details


@pytest.mark.parametrize("politely", [True, False])
async def test_device_that_hangs_up_has_left(
    server: Server, *, politely: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: asyncio.Queue[Key] = asyncio.Queue()
    monkeypatch.setattr(server.leases, "leave", left.put_nowait)
    device = await server.device()
    async with device.connect() as session:
        await opened(server, session)
        if politely:
            await session.close()
            await session.status()
    async with asyncio.timeout(10):
        assert await left.get() == key_of(device)


async def test_device_that_was_hung_up_on_has_not_left(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Key] = []
    monkeypatch.setattr(server.leases, "leave", left.append)
    device = await server.device()
    async with device.connect() as session:
        await opened(server, session)
        server.hub.end_all("the control plane stops")
        assert (await session.status())[0] is grpc.StatusCode.ABORTED
    assert not left
