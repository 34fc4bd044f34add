# SPDX-License-Identifier: Apache-2.0
import asyncio
import json
import ssl
import stat
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from kedge_controlplane.errors import SettingsError
from kedge_controlplane.runtime import ServerInfo, serve
from kedge_controlplane.settings import (
    DATABASE_URL,
    Limits,
    database_in,
    read_settings,
)
from tests.simulators.enrolled_device import SimulatedDevice
from tests.simulators.server import START_S, running_server


def unexpected(info: ServerInfo) -> None:
    raise AssertionError(info)


async def test_server_says_where_it_is_and_answers(tmp_path: Path) -> None:
    async with running_server(tmp_path / "data") as client:
        announced = json.loads((tmp_path / "data" / "server.json").read_text())
        assert announced["api"] == client.info.api
        facts = (await client.http.get("/.well-known/kedge.json")).json()
        assert facts["gateway"] == client.info.gateway
        assert [key["keytype"] for key in facts["directorKeys"]] == ["ed25519"]
        kubeconfig = (tmp_path / "data" / "kubeconfig").stat()
        assert stat.S_IMODE(kubeconfig.st_mode) == 0o600
        anonymous = await client.http.get("/apis", headers={"Authorization": ""})
        assert anonymous.status_code == 401


async def test_device_enrols_and_connects(tmp_path: Path) -> None:
    async with running_server(tmp_path / "data") as client:
        identity = await client.enrol(labels={"site": "lab"})
        device = SimulatedDevice(identity=identity, gateway=client.info.gateway)
        async with device.connect() as session:
            await session.greet()
            await session.beat()
            await session.close()
            await session.status()
        stored = await client.get("devices", identity.device)
        assert stored["metadata"]["labels"] == {"site": "lab"}
        assert stored["status"]["systemInfo"]["hostname"] == "sim"


async def test_restart_keeps_identity_and_lets_the_administrator_in(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    async with running_server(data) as client:
        identity = await client.enrol()
        token = yaml.safe_load((data / "kubeconfig").read_text())["users"]
    async with running_server(data) as client:
        assert yaml.safe_load((data / "kubeconfig").read_text())["users"] == token
        assert (await client.get("devices", identity.device))["kind"] == "Device"
        device = SimulatedDevice(identity=identity, gateway=client.info.gateway)
        async with device.connect() as session:
            await session.greet()
            await session.close()
            await session.status()


async def test_new_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    limits = Limits(upkeep=timedelta(milliseconds=50))
    async with running_server(tmp_path, limits=limits) as client:
        ports = [
            ("127.0.0.1", int(address.rpartition(":")[2]))
            for address in (client.info.api, client.info.gateway)
        ]

        async def shown() -> list[str]:
            return [
                await asyncio.to_thread(ssl.get_server_certificate, port)
                for port in ports
            ]

        first = await shown()
        assert len(set(first)) == 1
        (tmp_path / "trust" / "server.pem").unlink()
        async with asyncio.timeout(START_S):
            while set(await shown()) & set(first):
                pass
        facts = await client.http.get("/.well-known/kedge.json")
        assert facts.is_success


async def test_second_server_on_a_folder_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = read_settings(data=data, listen="127.0.0.1:0", environment={})
    async with running_server(data):
        with pytest.raises(SettingsError, match="no server uses"):
            await serve(settings, ready=unexpected)


async def test_second_server_on_a_database_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = read_settings(
        data=tmp_path / "other",
        listen="127.0.0.1:0",
        gateway="127.0.0.1:0",
        environment={DATABASE_URL: database_in(data)},
    )
    async with running_server(data):
        with pytest.raises(SettingsError, match=r"found kedge\.db\.lock in use"):
            await serve(settings, ready=unexpected)


async def test_database_url_that_is_none_is_named(tmp_path: Path) -> None:
    settings = read_settings(data=tmp_path, environment={DATABASE_URL: "nonsense"})
    with pytest.raises(SettingsError, match=DATABASE_URL):
        await serve(settings, ready=unexpected)


async def test_damaged_trust_folder_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "ca.key").write_text("garbage")
    settings = read_settings(data=tmp_path, listen="127.0.0.1:0", environment={})
    with pytest.raises(SettingsError, match=r"ca\.key"):
        await serve(settings, ready=unexpected)


async def test_taken_port_stops_the_start(tmp_path: Path) -> None:
    async with running_server(tmp_path / "one") as client:
        settings = read_settings(
            data=tmp_path / "two",
            listen=client.info.api.removeprefix("https://"),
            environment={},
        )
        with pytest.raises(SettingsError, match="--listen"):
            await serve(settings, ready=unexpected)
        settings = read_settings(
            data=tmp_path / "two",
            listen="127.0.0.1:0",
            gateway=client.info.gateway,
            environment={},
        )
        with pytest.raises(SettingsError, match="gateway"):
            await serve(settings, ready=unexpected)


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:", "localhost:70000", "a b:1", "::1:80"]
)
def test_bad_address_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="--listen"):
        read_settings(data=tmp_path, listen=text, environment={})


def test_bad_host_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--hostname"):
        read_settings(data=tmp_path, hostnames=["-x"], environment={})
