# SPDX-License-Identifier: Apache-2.0
"""The real supervisor process: starts, ends, deaths of its runtime, and its rivals."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kedge_wire.v1.report_pb2 import Phase, Result
from tests.simulators.agent import ROOT, Agent, Site, site


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path) as place:
        yield place


async def run_first(place: Site, agent: Agent) -> None:
    await agent.serving()
    await place.gateway.put(place.repository.signed(1, n=1))
    await place.gateway.until(
        lambda r: r.running_generation == 1 and r.phase == Phase.PHASE_UPDATED
    )


async def gone(pid: int) -> None:
    """Wait for a process that is not our child to be gone."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), 20)
        finally:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)


async def test_a_device_enrols_fetches_serves_and_reports(place: Site) -> None:
    async with place.agent() as agent:
        await run_first(place, agent)
        assert (await agent.ask())["configs"] == {"digits": {"n": 1}}
        assert (await agent.ask_splice())["generation"] == 1
        (hello, *_) = place.gateway.hellos
        assert hello.hello.facts.cpus >= 1
        assert list(hello.hello.facts.providers) == ["CPUExecutionProvider"]
        report = place.gateway.reports[-1]
        assert report.serving_http == "http://{}:{}".format(*agent.http)
        found = json.loads((place.state / "serving.json").read_bytes())
        assert found["pid"] == agent.process.pid
        runtime = (await agent.ask())["pid"]
        assert await agent.end(signal.SIGTERM) == 0
        await gone(runtime)


async def test_it_serves_while_the_control_plane_is_away(place: Site) -> None:
    async with place.agent() as agent:
        await run_first(place, agent)
        await agent.end(signal.SIGKILL)
    trust = place.state / "identity" / "trust.json"
    nowhere = json.loads(trust.read_bytes()) | {"gateway": "127.0.0.1:9"}
    trust.write_text(json.dumps(nowhere))
    async with place.agent() as agent:
        await agent.serving()
        assert (await agent.ask())["generation"] == 1


async def test_connections_wait_while_the_runtime_is_replaced(place: Site) -> None:
    async with place.agent() as agent:
        await run_first(place, agent)
        runtime = (await agent.ask())["pid"]
        os.kill(runtime, signal.SIGKILL)
        await gone(runtime)
        http, splice = await asyncio.gather(agent.ask(), agent.ask_splice())
        assert http["generation"] == splice["generation"] == 1
        assert http["pid"] == splice["pid"] != runtime


async def test_a_generation_that_kills_its_runtime_on_trial_is_rolled_back(
    place: Site,
) -> None:
    async with place.agent() as agent:
        await run_first(place, agent)
        await place.gateway.put(place.repository.signed(2, fail="crash-status"))
        report = await place.gateway.until(
            lambda r: r.result == Result.RESULT_FAILED_ROLLBACK_COMPLETE
        )
        assert (report.generation, report.running_generation) == (2, 1)
        assert (await agent.ask())["configs"] == {"digits": {"n": 1}}


async def test_a_second_agent_on_the_same_state_is_refused(place: Site) -> None:
    async with place.agent() as agent:
        await agent.serving()
        rival = await Agent.start(place)
        line = await rival.logged("another agent")
        assert str(place.state) in line
        assert await rival.process.wait() == 1


async def test_the_runtime_dies_with_a_killed_supervisor(place: Site) -> None:
    async with place.agent() as agent:
        await run_first(place, agent)
        runtime = (await agent.ask())["pid"]
        await agent.end(signal.SIGKILL)
        await gone(runtime)


async def test_the_supervisor_dies_with_its_parent_if_told_to(place: Site) -> None:
    starter = (
        "import os, subprocess, sys;"
        "child = subprocess.Popen([*sys.argv[1:], str(os.getpid())]);"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", starter, sys.executable, "-m", "kedge_agent", "run"),
        *("--state-dir", str(place.state)),
        *("--enrollment", str(place.write_enrolment())),
        *("--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0"),
        "--die-with-parent",  # the starter adds its process id
        cwd=ROOT,
        env=os.environ
        | {"KEDGE_AGENT_RUNTIME": f"{sys.executable} -m tests.simulators.runtime"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    await place.gateway.until_connected()
    parent.kill()
    await parent.wait()
    await gone(child)


async def test_status_tells_what_runs(place: Site) -> None:
    async with place.agent() as agent:
        await run_first(place, agent)
        status = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kedge_agent", "status"),
            *("--state-dir", str(place.state), "-o", "json"),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        found = json.loads((await status.communicate())[0])
        assert (found["runningGeneration"], found["running"]) == (1, True)
        assert found["result"] == "RESULT_SUCCESSFUL"
        assert found["http"].endswith(str(agent.http[1]))
