# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kedge_controlplane.__main__ import main
from tests.unit.controlplane.cli.operator_api import OperatorApi, running_api


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Kedge = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without kubeconfig or keys, and a terminal of no colours."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KEDGE_KEY_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def kedge(home: Path, capfd: pytest.CaptureFixture[str]) -> Kedge:
    """Run a command as an operator types it."""

    def run(*arguments: str) -> Ran:
        try:
            code = main(arguments)
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
        out, err = capfd.readouterr()
        return Ran(code=code, out=out, err=err)

    return run


@pytest.fixture
def api(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OperatorApi]:
    """A server whose kubeconfig is in force."""
    folder = home / "server"
    folder.mkdir()
    monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
    with running_api(folder) as running:
        yield running
