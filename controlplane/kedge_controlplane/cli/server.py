# SPDX-License-Identifier: Apache-2.0
"""`kedge server` and `kedge migrate`: the control plane itself.

The server's own parts are imported when it starts; no other command pays for them.
"""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kedge_controlplane.cli.console import complain, say
from kedge_controlplane.cli.parent import die_with_parent
from kedge_controlplane.errors import SettingsError
from kedge_controlplane.settings import database_in, read_settings
from kedge_controlplane.telemetry import configure_logging

if TYPE_CHECKING:
    from kedge_controlplane.runtime import ServerInfo

Data = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Keys, artifacts, kubeconfig and database."),
]
DATA = Path("kedge-data")


def server(
    *,
    data: Data = DATA,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="For operators and artifacts.")
    ] = "127.0.0.1:8443",
    gateway: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="For device sessions.")
    ] = "127.0.0.1:8444",
    hostname: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name or address that clients use; the first is announced. "
            "May be repeated.",
        ),
    ] = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Bring the database up to date first.")
    ] = False,
    parent: Annotated[
        int | None,
        typer.Option(
            "--die-with-parent",
            metavar="PID",
            help="End when the starting process, which has this id, ends (Linux).",
        ),
    ] = None,
) -> None:
    """Run the control plane until SIGINT or SIGTERM.

    The first start makes a certificate authority, keys, a database and a kubeconfig.
    KEDGE_DATABASE_URL names another database than the one in the data folder.

    Examples:
        kedge server
        kedge server --data /var/lib/kedge --listen 0.0.0.0:8443
        --gateway 0.0.0.0:8444 --hostname kedge.example.com
    """
    if parent is not None:
        die_with_parent(parent)
    settings = read_settings(
        data=data,
        listen=listen,
        gateway=gateway,
        hostnames=hostname or (),
        migrate=migrate,
        environment=os.environ,
    )
    _make(settings.data)
    configure_logging()
    from kedge_controlplane.runtime import serve

    asyncio.run(serve(settings, ready=_announce))


def migrate(*, data: Data = DATA) -> None:
    """Bring the database to the schema of this release.

    Run it before a new release starts on an existing database; it is all or nothing.
    KEDGE_DATABASE_URL names another database than the one in the data folder.

    Examples:
        kedge migrate --data /var/lib/kedge
    """
    settings = read_settings(data=data, environment=os.environ)
    if settings.database_url == database_in(settings.data):
        _expect(settings.data)
    from kedge_controlplane.store.migrate import current, upgrade

    async def run() -> tuple[str | None, str | None]:
        before = await current(settings.database_url)
        await upgrade(settings.database_url)
        return before, await current(settings.database_url)

    before, after = asyncio.run(run())
    if before == after:
        say(f"database unchanged at revision {after}")
    else:
        say(f"database migrated from {before or 'nothing'} to {after}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise SettingsError(
            f"--data: expected a folder that can be made: {folder}: {exc.strerror}"
        ) from exc


def _expect(folder: Path) -> None:
    if not folder.is_dir():
        raise SettingsError(
            f"--data: expected a folder that `kedge server` made, found none: {folder}"
        )


def _announce(info: "ServerInfo") -> None:
    say(f"operator API   {info.api}")
    say(f"device gateway {info.gateway}")
    complain(f"Use it with: export KUBECONFIG={info.kubeconfig}")
