# SPDX-License-Identifier: Apache-2.0
"""`kedge version` and `kedge kubeconfig`."""

from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from kedge_controlplane.cli.console import say
from kedge_controlplane.cli.kubeconfig import locate, read_endpoint
from kedge_controlplane.cli.options import Force, Kubeconfig, Namespace, connect
from kedge_controlplane.cli.target import write_target
from kedge_controlplane.errors import InputError, UnreachableError


def version(
    *,
    client: Annotated[
        bool, typer.Option("--client", help="Do not ask the server.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    namespace: Namespace = None,
) -> None:
    """Show versions.

    Of this command and of the server.

    Examples:
        kedge version
        kedge version --client
    """
    say(f"client {installed_version('kedge')}")
    if client:
        return
    try:
        with connect(kubeconfig, namespace) as server:
            say(f"server {server.facts()['version']} ({server.endpoint.server})")
    except (InputError, UnreachableError) as exc:
        say(f"server unknown: {exc}")


def kubeconfig(
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Copy it, with mode 0600.")
    ] = None,
    force: Force = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show which kubeconfig is used, or copy it.

    kubectl understands the same file.

    Examples:
        kubectl --kubeconfig "$(kedge kubeconfig)" get fleets
        kedge kubeconfig --out ~/.kube/kedge
    """
    path = locate(kubeconfig)
    read_endpoint(path)
    if out is None:
        say(str(path.absolute()))
        return
    write_target(out, path.read_bytes(), force=force)
    say(f"{out} written")
