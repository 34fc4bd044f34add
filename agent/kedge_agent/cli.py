# SPDX-License-Identifier: Apache-2.0
"""The `kedge-agent` command: words in, words and exit codes out.

Exit codes: 0 done, 1 it failed and said why, 2 wrong usage. The process edge: here, and
only here, an error becomes text.
"""

import asyncio
import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from kedge_agent.enrolment import Identity
from kedge_agent.errors import AgentError, SettingsError
from kedge_agent.journal import Journal
from kedge_agent.parent import die_with_parent
from kedge_agent.settings import Settings
from kedge_agent.supervisor import AGENT_VERSION, run
from kedge_wire.v1.report_pb2 import Failure, Result

app = typer.Typer(
    name="kedge-agent",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StateDir = Annotated[
    Path, typer.Option(help="Where the device keeps everything.", file_okay=False)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")]


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - Typer's callback
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    *,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the agent's version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Runs signed models and components on this device, as its fleet says."""
    del show_version  # its callback did everything


@app.command(
    "run",
    epilog="Example: kedge-agent run --state-dir /var/lib/kedge "
    "--enrollment enrolment.json --serve-http 0.0.0.0:8000",
)
def run_command(
    *,
    state_dir: StateDir,
    enrollment: Annotated[
        Path | None,
        typer.Option(
            help="The file from `kedge enroll`; ignored once the device is enrolled.",
            dir_okay=False,
        ),
    ] = None,
    serve_http: Annotated[
        str, typer.Option(help="HTTP inference address; port 0 takes a free one.")
    ] = "127.0.0.1:8000",
    serve_grpc: Annotated[
        str, typer.Option(help="gRPC inference address; port 0 takes a free one.")
    ] = "127.0.0.1:8001",
    parent: Annotated[
        int | None,
        typer.Option(
            "--die-with-parent",
            metavar="PID",
            help="End when the starting process, which has this id, ends (Linux).",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Enrol if needed, then serve and follow orders until stopped."""
    if parent is not None:
        die_with_parent(parent)
    level = logging.DEBUG if debug else os.environ.get("KEDGE_LOG_LEVEL", "INFO")
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    try:
        settings = Settings.read(
            state_dir=state_dir,
            enrolment_file=enrollment,
            serve_http=serve_http,
            serve_grpc=serve_grpc,
            environ=os.environ,
        )
        asyncio.run(run(settings))
    except AgentError as exc:
        _fail(exc, debug=debug)


@app.command(epilog="Example: kedge-agent status --state-dir /var/lib/kedge -o json")
def status(
    *,
    state_dir: StateDir,
    output: Annotated[str, typer.Option("-o", "--output", help="text or json.")] = (
        "text"
    ),
    debug: Debug = False,
) -> None:
    """Say what the device runs, also while the agent is running or stopped."""
    if output not in {"text", "json"}:
        raise typer.BadParameter(f"expected text or json, found {output}")
    try:
        found = _status(Settings(state_dir=state_dir.absolute()))
    except AgentError as exc:
        _fail(exc, debug=debug)
    if output == "json":
        typer.echo(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            typer.echo(f"{name + ':':<20} {'-' if value in ('', None) else value}")


@app.command()
def version() -> None:
    """Print the agent's version."""
    typer.echo(f"kedge-agent {AGENT_VERSION} (Python {platform.python_version()})")


def main() -> None:
    app()


def _status(settings: Settings) -> dict[str, Any]:
    identity = Identity.load(settings)
    if identity is None:
        raise SettingsError(
            f"status: expected an enrolled device in {settings.state_dir}, found none",
            element=str(settings.state_dir),
        )
    found: dict[str, Any] = {"device": identity.device, "tenant": identity.tenant}
    if settings.journal_path.exists():
        with Journal(settings.journal_path, read_only=True) as journal:
            state = journal.state
        failure = Failure.FromString(state.failure)
        found |= {
            "generation": state.floor,
            "runningGeneration": state.current,
            "previousGeneration": state.previous,
            "trialGeneration": state.trial,
            "result": Result.Name(Result.ValueType(state.result)),
            "failure": f"{failure.code}: {failure.message}" if failure.code else "",
        }
    try:
        serving = json.loads(settings.serving_path.read_bytes())
    except (OSError, ValueError):
        serving = {}
    alive = _alive(serving.get("pid", 0))
    found["running"] = alive
    found["http"] = serving.get("http", "") if alive else ""
    found["grpc"] = serving.get("grpc", "") if alive else ""
    return found


def _alive(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


def _fail(error: AgentError, *, debug: bool) -> NoReturn:
    if debug:
        raise error
    typer.echo(f"kedge-agent: {error.diagnostics()}", err=True)
    sys.exit(1)
