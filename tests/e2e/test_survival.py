# SPDX-License-Identifier: Apache-2.0
"""Processes killed with SIGKILL in the middle of a rollout; requests keep flowing."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.e2e.fleet import Agent, ControlPlane, running, until

pytestmark = pytest.mark.xdist_group("e2e-survival")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    with running(tmp_path, devices=2) as plane:
        yield plane


class Asker(threading.Thread):
    """Asks one device again and again, and remembers which models answered."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(name=f"ask-{agent.name}")
        self.agent, self.stopping = agent, threading.Event()
        self.digests: set[str] = set()
        self.requests = 0
        self.failures: list[str] = []

    def run(self) -> None:
        while not self.stopping.is_set():
            self.requests += 1
            try:
                self.digests.add(self.agent.model_digest())
            except httpx.HTTPError as exc:
                self.failures.append(repr(exc))


@contextmanager
def asking(agents: list[Agent]) -> Iterator[list[Asker]]:
    askers = [Asker(agent) for agent in agents]
    for asker in askers:
        asker.start()
    try:
        yield askers
    finally:
        for asker in askers:
            asker.stopping.set()
        for asker in askers:
            asker.join()


def test_a_server_killed_during_a_rollout_finishes_it_after_its_restart(
    plane: ControlPlane,
) -> None:
    first, second = plane.digits.references
    with asking(plane.agents) as askers:
        plane.roll_out(2)

        def canary_moved() -> bool:
            rollout = plane.rollout()
            return rollout is not None and any(
                b.devices for b in rollout.status.batches
            )

        until(canary_moved, "the canary starts", log=plane.log)
        plane.stop(signal.SIGKILL)
        plane.start()
        plane.until_phase("Completed")
        plane.until_up_to_date()
        for agent in plane.agents:
            assert agent.model_digest() == second.digest
    for asker in askers:
        assert not asker.failures
        assert asker.requests > 20
        assert asker.digests <= {first.digest, second.digest}


def test_a_server_that_is_down_does_not_stop_devices_from_serving(
    plane: ControlPlane,
) -> None:
    plane.stop(signal.SIGKILL)
    for agent in plane.agents:
        agent.kill()
        agent.start()
    for agent in plane.agents:
        until(partial(serves, agent), "the agent serves", log=agent.log)
        assert agent.model_digest() == plane.digits.references[0].digest
    plane.start()
    plane.until_up_to_date()


@pytest.mark.parametrize("seed", range(3))
def test_an_agent_killed_during_an_update_runs_the_old_or_the_new_triple(
    plane: ControlPlane, seed: int
) -> None:
    """The moment is drawn from the whole update; every restart must serve."""
    known = {reference.digest for reference in plane.digits.references}
    random = Random(seed)
    plane.roll_out(2, canary=False)
    victim = plane.agents[0]
    waits = threading.Event()
    for _ in range(2):  # a third interrupted try would fail the order for good
        waits.wait(random.uniform(0.0, 0.9))
        victim.kill()
        victim.start()
        until(lambda: serves(victim), "the agent serves again", log=victim.log)
        assert victim.model_digest() in known
    plane.until_up_to_date()
    assert victim.model_digest() == plane.digits.references[1].digest


def test_a_runtime_killed_under_load_is_restarted_and_the_backlog_waits(
    plane: ControlPlane,
) -> None:
    agent = plane.agents[0]
    supervisor = agent.serving()["pid"]
    (runtime,) = children(supervisor)
    os.kill(runtime, signal.SIGKILL)
    # A connection made while no runtime lives is answered by the next one.
    assert agent.model_digest() == plane.digits.references[0].digest
    until(lambda: children(supervisor) not in ([], [runtime]), "restart", log=agent.log)
    plane.until_up_to_date()


def serves(agent: Agent) -> bool:
    try:
        agent.model_digest()
    except httpx.HTTPError:
        return False
    return True


def children(pid: int) -> list[int]:
    """Process ids of the children of a process, as Linux lists them."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
