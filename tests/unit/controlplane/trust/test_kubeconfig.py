# SPDX-License-Identifier: Apache-2.0
import stat
from pathlib import Path

import pytest

from kedge_controlplane.trust.kubeconfig import read_admin_token, write_kubeconfig


def test_kubeconfig_is_private_and_keeps_its_token(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, server="https://localhost:1", ca_pem=b"PEM", token="kedge_x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_admin_token(path) == "kedge_x"


@pytest.mark.parametrize("text", [None, "", "users: []", "users: 7", "{", "[]"])
def test_other_files_hold_no_token(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    assert read_admin_token(path) is None
