# SPDX-License-Identifier: Apache-2.0
"""`kedge demo`: a whole fleet on this machine, shown as it happens."""

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from kedge_controlplane.cli.demo.digits import Digits
from kedge_controlplane.cli.demo.processes import Processes
from kedge_controlplane.cli.demo.story import Outcome, tell
from kedge_controlplane.errors import ControlPlaneError

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it."""


def demo(
    *,
    devices: Annotated[
        int, typer.Option(min=1, max=50, help="Agents to start, a process each.")
    ] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object as the last line.")
    ] = False,
    keep: Annotated[
        bool, typer.Option(help="Leave it running and say how to reach it.")
    ] = False,
) -> None:
    """Run a whole fleet on this machine: enrol, roll out, classify, canary.

    Starts a control plane and agents as processes, pushes a signed component and two
    models of handwritten digits, rolls out the weak one, then moves the fleet to the
    better one, one device first, while a client per device keeps asking.

    Examples:
        kedge demo

        kedge demo --devices 10 --json

        kedge demo --keep
    """
    console = Console(stderr=as_json)
    digits = Digits.load()
    with _folder(keep=keep) as folder, asyncio.Runner() as runner:
        outcome = runner.run(_run(folder, devices, digits, console, keep=keep))
    if outcome is None:
        raise typer.Exit(INTERRUPTED)
    report = summary(outcome)
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
    if report["failed"] or report["wrong"] or not _exact(outcome):
        raise typer.Exit(1)


async def _run(
    folder: Path, devices: int, digits: Digits, console: Console, *, keep: bool
) -> Outcome | None:
    """Tell the story; None where a signal ended it. No process outlives this."""
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    async with Processes(folder) as processes:
        with _bars(console) as bars:
            story = asyncio.create_task(
                tell(
                    folder,
                    devices=devices,
                    digits=digits,
                    processes=processes,
                    narrator=bars,
                ),
                name="story",
            )
            stop = asyncio.create_task(interrupted.wait(), name="interrupt")
            await asyncio.wait({story, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not story.done():
                story.cancel()
                await asyncio.wait({story})
                console.print("Interrupted; ending every process.")
                return None
            outcome = _told(story)
        console.print(table(outcome))
        if keep:
            _say_where(console, folder, outcome)
            await stop
        stop.cancel()
    return outcome


def _told(story: asyncio.Task[Outcome]) -> Outcome:
    """The outcome; a failure inside a group of tasks is raised as itself."""
    try:
        return story.result()
    except* ControlPlaneError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def summary(outcome: Outcome) -> dict[str, Any]:
    """The figures of a run; accuracies are the lowest of any device."""
    devices = outcome.devices
    swaps = sorted(device.swap_ms for device in devices)
    return {
        "devices": len(devices),
        "images": len(outcome.digits.images),
        "accuracy_v1": min(device.accuracy_before for device in devices),
        "accuracy_v2": min(device.accuracy_after for device in devices),
        "requests": sum(device.tally.requests for device in devices),
        "failed": sum(device.tally.failed for device in devices),
        "wrong": sum(device.tally.wrong for device in devices),
        "swap_ms_p50": _quantile(swaps, 0.5),
        "swap_ms_p99": _quantile(swaps, 0.99),
        "seconds": round(outcome.seconds, 1),
    }


def table(outcome: Outcome) -> Table:
    """The closing table, a row a device, for a terminal of 80 columns."""
    shown = Table(box=None, padding=(0, 1, 0, 0), title_justify="left")
    shown.title = "\nDigits: a weak model, then a better one (* moved first); %, ms"
    for column in ("device", "model", "provider"):
        shown.add_column(column, no_wrap=True)
    for column in ("accuracy", "requests", "failed", "wrong", "p50/p99"):
        shown.add_column(column, justify="right", no_wrap=True)
    for device in outcome.devices:
        tally = device.tally
        latencies = sorted(tally.latencies_s)
        shown.add_row(
            f"{device.device}{'*' if device.name == outcome.canary else ''}",
            f"{device.model_before[:4]}→{device.model_after[:4]}",
            device.provider.replace("ExecutionProvider", ""),
            f"{device.accuracy_before * 100:.1f}→{device.accuracy_after * 100:.1f}",
            str(tally.requests),
            str(tally.failed),
            str(tally.wrong),
            f"{_quantile(latencies, 0.5) * 1000:.0f}/"
            f"{_quantile(latencies, 0.99) * 1000:.0f}",
        )
    first, second = outcome.digits.references
    shown.caption_justify = "left"
    shown.caption = (
        "The same model files run directly: "
        f"{first.accuracy * 100:.1f}, then {second.accuracy * 100:.1f}\n"
    )
    return shown


def _exact(outcome: Outcome) -> bool:
    """Every device answered exactly as well as the file does by itself."""
    first, second = outcome.digits.references
    return all(
        (device.accuracy_before, device.accuracy_after)
        == (first.accuracy, second.accuracy)
        for device in outcome.devices
    )


def _quantile(ordered: list[float], share: float) -> float:
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextlib.contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="kedge-demo-"))
    try:
        yield folder
    except BaseException:
        # What the processes printed is needed now.
        Console(stderr=True).print(f"The demo's folder is kept: {folder}")
        raise
    if not keep:
        shutil.rmtree(folder)


class _Bars:
    """The story's steps as progress bars."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def stage(self, text: str, total: int) -> "_Bar":
        return _Bar(self._progress, self._progress.add_task(text, total=total))


class _Bar:
    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task = progress, task

    def reached(self, count: int) -> None:
        self._progress.update(self._task, completed=count)


@contextlib.contextmanager
def _bars(console: Console) -> Iterator[_Bars]:
    with Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        yield _Bars(progress)


def _say_where(console: Console, folder: Path, outcome: Outcome) -> None:
    console.print(f"\nStill running; Ctrl-C ends it. Everything is in {folder}.\n")
    console.print(f"  export KUBECONFIG={folder}/server/kubeconfig")
    console.print("  kedge get devices -o wide")
    for device in outcome.devices:
        console.print(f"  {device.device}: {device.url}/v2/models/digits")
    console.print()


app = typer.Typer(
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
