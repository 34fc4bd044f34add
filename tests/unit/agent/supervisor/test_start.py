# SPDX-License-Identifier: Apache-2.0
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kedge_agent.cli import app
from kedge_agent.errors import SettingsError
from kedge_agent.listeners import address_of, listen
from kedge_agent.settings import Address, Settings
from kedge_agent.supervisor import AGENT_VERSION, run
from tests.simulators.pki import Authority
from tests.simulators.repository import BlobServer
from tests.unit.agent.supervisor.test_enrolment import document

FREE = Address(host="127.0.0.1", port=0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BlobServer]:
    with BlobServer({}, Authority(), tmp_path) as server:
        yield server


@pytest.mark.parametrize("taken", ["serve_http", "serve_grpc"])
async def test_a_port_that_is_taken_costs_no_token(
    tmp_path: Path, server: BlobServer, taken: str
) -> None:
    path = tmp_path / "enrolment.json"
    path.write_text(json.dumps(document(server)))
    settings = Settings(
        state_dir=tmp_path / "state",
        enrolment_file=path,
        serve_http=FREE,
        serve_grpc=FREE,
    )
    with listen(FREE) as other:
        settings = replace(settings, **{taken: address_of(other)})  # type: ignore[arg-type] # both are addresses
        with pytest.raises(SettingsError, match="expected to listen on"):
            await run(settings)
    assert not server.requests


@pytest.mark.parametrize(
    ("file", "message"),
    [(None, "--enrollment FILE"), ("nosuch.json", "expected a file, found none at")],
)
async def test_a_start_that_cannot_enrol_leaves_no_trace(
    tmp_path: Path, file: str | None, message: str
) -> None:
    settings = Settings(
        state_dir=tmp_path / "state",
        enrolment_file=tmp_path / file if file else None,
        serve_http=FREE,
        serve_grpc=FREE,
    )
    with pytest.raises(SettingsError, match=message):
        await run(settings)
    assert not settings.state_dir.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-h"], "Usage"),
        (["run", "-h"], "--state-dir"),
        (["--version"], f"kedge-agent {AGENT_VERSION}"),
        (["version"], f"kedge-agent {AGENT_VERSION}"),
    ],
)
def test_the_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["kedge-agent", *words])
    with pytest.raises(SystemExit) as ended:
        app()
    assert not ended.value.code
    assert expected in capsys.readouterr().out
