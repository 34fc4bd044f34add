# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, and the connection they describe."""

from pathlib import Path
from typing import Annotated

import typer

from kedge_controlplane.cli.kubeconfig import locate, read_endpoint
from kedge_controlplane.client import Client

_KUBECONFIG = (
    "Where the API server is. Default: KUBECONFIG, then ./kedge-data/kubeconfig, "
    "then ~/.kube/config."
)

# Only the option before all commands reads the environment: there, what was typed wins.
GlobalKubeconfig = Annotated[
    str | None, typer.Option(envvar="KUBECONFIG", metavar="FILE", help=_KUBECONFIG)
]
Kubeconfig = Annotated[str | None, typer.Option(metavar="FILE", help=_KUBECONFIG)]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", metavar="NAME", help="Default: the kubeconfig's."
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace the file if there is one.")
]
KeyDir = Annotated[
    Path | None,
    typer.Option(
        "--key-dir",
        "--dir",
        envvar="KEDGE_KEY_DIR",
        metavar="DIR",
        help="Where private keys are. Default: ~/.config/kedge/keys.",
    ),
]


def connect(kubeconfig: str | None, namespace: str | None) -> Client:
    """The API server that the options name. Raises InputError."""
    return Client(read_endpoint(locate(kubeconfig), namespace=namespace))
