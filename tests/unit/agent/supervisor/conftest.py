# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from tests.simulators.repository import Repository


@pytest.fixture
def repository() -> Repository:
    return Repository()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
