# SPDX-License-Identifier: Apache-2.0
"""The server as a process of its own: signals, and what is left after a kill."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from kedge_controlplane.runtime import ServerInfo
from tests.simulators.enrolled_device import SimulatedDevice
from tests.simulators.server import DEFAULT, START_S, Client, admin_client

_PROGRAM = """
import asyncio, json, sys
from dataclasses import asdict
from pathlib import Path
from kedge_controlplane.runtime import serve
from kedge_controlplane.settings import read_settings

settings = read_settings(
    data=Path(sys.argv[1]), listen="127.0.0.1:0", gateway="127.0.0.1:0", environment={}
)
asyncio.run(serve(settings, ready=lambda i: print(json.dumps(asdict(i)), flush=True)))
"""


@asynccontextmanager
async def server_process(
    data: Path,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, ServerInfo]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROGRAM, str(data), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
        yield process, ServerInfo(**json.loads(line))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until_online(client: Client, device: str) -> None:
    """Follow the device with a watch, as an operator would."""
    query = {"watch": "true", "timeoutSeconds": "20"}
    async with client.http.stream("GET", f"{DEFAULT}/devices", params=query) as answer:
        async for line in answer.aiter_lines():
            found = json.loads(line)["object"]
            online = found.get("status", {}).get("summary", {}).get("status")
            if (found["metadata"]["name"], online) == (device, "Online"):
                return
    raise AssertionError("the watch ended before the device was online")


async def test_sigterm_ends_sessions_and_exits_in_order(tmp_path: Path) -> None:
    async with server_process(tmp_path) as (process, info):
        async with admin_client(info) as client:
            identity = await client.enrol()
        device = SimulatedDevice(identity=identity, gateway=info.gateway)
        async with device.connect() as session:
            await session.greet()
            async with admin_client(info) as client, asyncio.timeout(START_S):
                await until_online(client, identity.device)
            process.send_signal(signal.SIGTERM)
            code, details = await session.status()
            assert code is grpc.StatusCode.ABORTED
            assert "stops" in details
        async with asyncio.timeout(START_S):
            assert await process.wait() == 0


async def test_killed_server_goes_on_with_what_was_committed(tmp_path: Path) -> None:
    async with server_process(tmp_path) as (process, info):
        async with admin_client(info) as client:
            identity = await client.enrol()
        process.kill()
        await process.wait()
    async with server_process(tmp_path) as (_, info), admin_client(info) as client:
        device = SimulatedDevice(identity=identity, gateway=info.gateway)
        async with device.connect() as session, asyncio.timeout(START_S):
            await session.greet()
            await until_online(client, identity.device)
