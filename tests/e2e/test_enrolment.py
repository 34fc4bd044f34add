# SPDX-License-Identifier: Apache-2.0
"""How devices join, on the real control plane: one token, one device."""

import shutil
from collections.abc import Iterator

import pytest

from tests.e2e.fleet import Agent, ControlPlane, running, until

pytestmark = pytest.mark.xdist_group("e2e-inference")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running(tmp_path_factory.mktemp("fleet"), devices=1) as plane:
        yield plane


def test_a_second_device_cannot_use_the_same_token(plane: ControlPlane) -> None:
    first = plane.agents[0]
    second = Agent(plane, "thief")
    shutil.copy(first.enrolment, second.enrolment)
    process = second.start().process
    assert process is not None
    assert process.wait(timeout=30) == 1
    said = second.log.read_text()
    assert "token" in said
    assert "used" in said
    assert "Traceback" not in said
    assert len(plane.devices()) == 1


def test_an_enrolled_device_needs_no_token_any_more(plane: ControlPlane) -> None:
    agent = plane.agents[0]
    agent.enrolment.write_text("{}")
    agent.kill()
    agent.start()
    until(lambda: bool(agent.serving()), "the agent serves", log=agent.log)
    plane.until_up_to_date()
    assert agent.model_digest() == plane.digits.references[0].digest
