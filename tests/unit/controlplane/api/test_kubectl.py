# SPDX-License-Identifier: Apache-2.0
"""The real kubectl against the real server."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from starlette.applications import Starlette

from kedge_controlplane.store.store import Store
from kedge_controlplane.trust.ca import CertificateAuthority
from kedge_controlplane.trust.kubeconfig import write_kubeconfig
from tests.unit.controlplane.api.served import served
from tests.unit.controlplane.store.objects import device, fleet

Kubectl = Callable[..., Awaitable[str]]


@pytest.fixture
async def kubectl(
    app: Starlette, authority: CertificateAuthority, token: str, tmp_path: Path
) -> AsyncIterator[Kubectl]:
    """Run kubectl; its standard output, or an AssertionError with the other one."""
    program = shutil.which("kubectl")
    assert program is not None, "expected kubectl: apt-get install kubernetes-client"
    config = tmp_path / "kubeconfig"
    async with served(app, authority, tmp_path) as server:
        write_kubeconfig(
            config, server=server.url, ca_pem=authority.root_pem, token=token
        )

        async def run(*arguments: str, stdin: str = "", fails: bool = False) -> str:
            process = await asyncio.create_subprocess_exec(
                program,
                *arguments,
                env=os.environ | {"KUBECONFIG": str(config), "HOME": str(tmp_path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
            assert (process.returncode != 0) == fails, err.decode()
            return (err if fails else out).decode()

        yield run


async def test_kubectl_gets_labels_and_deletes(kubectl: Kubectl, store: Store) -> None:
    await store.create(device("d-1", site="berlin"))
    await store.create(device("d-2"))
    await store.create(fleet("cameras"))
    shown = (await kubectl("get", "dev")).splitlines()
    assert shown[0].split() == ["NAME", "STATUS", "UPDATED", "MODEL", "FLEET", "AGE"]
    assert shown[1].split()[:3] == ["d-1", "Unknown", "Unknown"]
    wide = await kubectl("get", "devices", "-A", "-o", "wide", "-l", "site=berlin")
    assert "INFO" in wide
    assert "d-2" not in wide
    names = await kubectl("get", "fleet,device", "-o", "name")
    assert names.split() == [
        "fleet.kedge.dev/cameras",
        "device.kedge.dev/d-1",
        "device.kedge.dev/d-2",
    ]
    found = json.loads(await kubectl("get", "fleet", "cameras", "-o", "json"))
    assert found["spec"]["template"]["spec"]["release"] == "r-1"
    assert "labeled" in await kubectl("label", "device", "d-2", "site=paris")
    assert "d-2" in await kubectl("get", "dev", "--show-labels", "-l", "site=paris")
    assert "deleted" in await kubectl("delete", "device", "d-1")
    assert "NotFound" in await kubectl("get", "device", "d-1", fails=True)
    listed = await kubectl("api-resources", "--api-group=kedge.dev", "-o", "name")
    assert "templateversions.kedge.dev" in listed.split()


async def test_kubectl_applies_without_client_validation(kubectl: Kubectl) -> None:
    manifest = json.dumps(
        {
            "apiVersion": "kedge.dev/v1alpha1",
            "kind": "Fleet",
            "metadata": {"name": "cameras"},
            "spec": {"selector": {}, "template": {"spec": {"release": "r-1"}}},
        }
    )
    apply = ("apply", "--validate=false", "-f", "-")
    assert "created" in await kubectl(*apply, stdin=manifest)
    assert "unchanged" in await kubectl(*apply, stdin=manifest)
    changed = manifest.replace("r-1", "r-2")
    assert "configured" in await kubectl(*apply, stdin=changed)
    typo = manifest.replace('"release"', '"model"')
    refused = await kubectl(*apply, stdin=typo, fails=True)
    assert "spec.template.spec.model: unknown field" in refused
    waited = await kubectl(
        "wait", "fleet/cameras", "--for=jsonpath={.metadata.generation}=2"
    )
    assert "condition met" in waited
