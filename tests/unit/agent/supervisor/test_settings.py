# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kedge_agent.cli import app
from kedge_agent.errors import SettingsError
from kedge_agent.settings import Address, Settings
from kedge_agent.supervisor import (
    INFERENCE_SOCKET,
    MAX_SOCKET_PATH,
    private_run_dir,
)


def read(tmp_path: Path, **environ: str) -> Settings:
    return Settings.read(
        state_dir=tmp_path,
        enrolment_file=None,
        serve_http="127.0.0.1:0",
        serve_grpc="[::1]:9",
        environ=environ,
    )


@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:0", "edge.local:65535"])
def test_an_address_reads_back_as_it_was_written(text: str) -> None:
    assert str(Address.parse(text, element="x")) == text


@pytest.mark.parametrize("text", ["", "x", ":80", "x:", "x:65536", "::1:80", "x:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        Address.parse(text, element="x")


def test_the_environment_changes_timing_and_runtime(tmp_path: Path) -> None:
    settings = read(
        tmp_path, KEDGE_AGENT_BEAT_SECONDS="2.5", KEDGE_AGENT_RUNTIME="perf 'a b'"
    )
    assert settings.timing.beat == 2.5
    assert settings.runtime_command == ("perf", "a b")


@pytest.mark.parametrize("value", ["", "x", "0", "-1", "nan", "inf", "1e9"])
def test_a_time_that_cannot_be_waited_for_is_refused(
    tmp_path: Path, value: str
) -> None:
    with pytest.raises(SettingsError, match="KEDGE_AGENT_BEAT_SECONDS"):
        read(tmp_path, KEDGE_AGENT_BEAT_SECONDS=value)


@pytest.mark.parametrize("value", ["'", " "])
def test_a_runtime_that_is_no_command_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="KEDGE_AGENT_RUNTIME"):
        read(tmp_path, KEDGE_AGENT_RUNTIME=value)


def test_a_state_directory_too_long_for_a_socket_gets_a_shorter_one(
    tmp_path: Path,
) -> None:
    settings = Settings(state_dir=tmp_path / ("x" * 100))
    with private_run_dir(settings) as folder:
        assert len(os.fsencode(folder / INFERENCE_SOCKET)) <= MAX_SOCKET_PATH
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_the_command_explains_itself() -> None:
    for words in (["--help"], ["run", "--help"], ["status", "--help"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0
        assert "Usage" in result.output


def test_wrong_usage_ends_with_two(tmp_path: Path) -> None:
    for words in (["run"], ["nothing"], ["status", "--state-dir", "x", "-o", "yaml"]):
        assert CliRunner().invoke(app, words).exit_code == 2


def test_a_failure_ends_with_one_and_a_sentence(tmp_path: Path) -> None:
    words = ["run", "--state-dir", str(tmp_path), "--serve-http", "nowhere"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "expected HOST:PORT, found 'nowhere'" in result.output
    assert "Traceback" not in result.output


def test_status_of_a_device_that_is_not_enrolled_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["status", "--state-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "expected an enrolled device" in result.output


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["version"]).output.startswith("kedge-agent ")
