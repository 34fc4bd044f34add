# SPDX-License-Identifier: Apache-2.0
"""Entry of the runtime process; only the supervisor starts it.

It dies with the supervisor. It takes no connection of a client before a generation
serves when it is told to hold: connections made while a runtime restarts then wait in
the listener's backlog instead of finding no model.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from pathlib import Path

import grpc
import uvloop

from kedge_agent.components.engine import ComponentEngine
from kedge_agent.inference.onnx import OnnxBackend
from kedge_agent.parent import die_with_parent
from kedge_agent.runtime.control import Control
from kedge_agent.runtime.generations import Generations
from kedge_agent.runtime.loader import Loader
from kedge_agent.serving.grpc import serve_grpc
from kedge_agent.serving.http import HttpApp
from kedge_agent.serving.http_server import serve_http
from kedge_agent.serving.service import InferenceService
from kedge_wire.v1.runtime_pb2_grpc import add_RuntimeControlServicer_to_server

logger = logging.getLogger(__name__)


def main() -> None:
    arguments = _parse()
    if arguments.parent:
        die_with_parent(arguments.parent)
    logging.basicConfig(
        level=os.environ.get("KEDGE_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(arguments))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kedge-agent runtime", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="RuntimeControl")
    parser.add_argument("--http-fd", type=int, required=True, help="listening socket")
    parser.add_argument(
        "--grpc-socket", type=Path, required=True, help="Open Inference Protocol"
    )
    parser.add_argument("--parent", type=int, default=0, help="supervisor's process id")
    parser.add_argument(
        "--hold", action="store_true", help="serve clients only once a model serves"
    )
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    backend, engine = OnnxBackend(), ComponentEngine()
    loader = Loader(engine=engine, backend=backend)
    generations = Generations(loader)
    control = await _serve_control(Control(generations, backend), arguments.socket)
    if arguments.hold:
        await _first(generations.activated.wait(), stop.wait())
    if not stop.is_set():
        await _serve_clients(generations, arguments, stop)
    await control.stop(grace=1)
    await generations.close()
    loader.close()
    engine.close()


async def _serve_control(control: Control, path: Path) -> grpc.aio.Server:
    server = grpc.aio.server()
    add_RuntimeControlServicer_to_server(control, server)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - before anything runs in the loop
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    finally:
        os.umask(mask)
    await server.start()
    return server


async def _serve_clients(
    generations: Generations, arguments: argparse.Namespace, stop: asyncio.Event
) -> None:
    service = InferenceService(generations)
    listener = socket.socket(fileno=arguments.http_fd)
    async with (
        serve_http(HttpApp(service), sockets=[listener]),
        serve_grpc(service, f"unix:{arguments.grpc_socket}"),
    ):
        await stop.wait()


async def _first(*waits: Coroutine[object, object, object]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


if __name__ == "__main__":
    main()
