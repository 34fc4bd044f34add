# SPDX-License-Identifier: Apache-2.0
"""The commands of `kedge`, and the options that go before any of them.

Heavy parts (server, database, inference) are imported by the commands that need them,
so that the rest start quickly.
"""

from typing import Annotated, Any

import typer

from kedge_controlplane.cli import (
    about,
    apply,
    enroll,
    get,
    keys,
    push,
    rollout,
    server,
)
from kedge_controlplane.cli.options import GlobalKubeconfig, Namespace

app = typer.Typer(
    name="kedge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Roll out AI models and WebAssembly components to fleets of edge devices.",
)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    *,
    kubeconfig: GlobalKubeconfig = None,
    namespace: Namespace = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show versions, as `kedge version` does.")
    ] = False,
) -> None:
    """Make the options before a command the defaults of that command."""
    if version:
        about.version(kubeconfig=kubeconfig, namespace=namespace)
        raise typer.Exit
    if context.invoked_subcommand is None:
        context.fail("expected a command, found none")
    given = {"kubeconfig": kubeconfig, "namespace": namespace}
    known = {name: value for name, value in given.items() if value is not None}
    context.default_map = _everywhere(context.command, known)


def _everywhere(command: Any, given: dict[str, Any]) -> dict[str, Any]:
    below = getattr(command, "commands", {})
    return given | {name: _everywhere(c, given) for name, c in below.items()}


def _demo(context: typer.Context) -> None:
    """Run a whole fleet on this machine: enrol, roll out, classify, canary."""
    from kedge_controlplane.cli.demo.command import app as demo

    demo(args=context.args, prog_name="kedge demo")


app.command()(get.get)
app.command(context_settings={"allow_extra_args": True})(apply.apply)
app.command()(get.delete)
app.add_typer(push.push, name="push")
app.add_typer(rollout.rollout, name="rollout")
app.add_typer(keys.keys, name="keys")
app.command()(enroll.enroll)
app.command()(server.server)
app.command()(server.migrate)
app.command()(about.kubeconfig)
app.command()(about.version)
app.command(
    "demo",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)(_demo)
