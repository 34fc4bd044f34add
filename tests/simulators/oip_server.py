# SPDX-License-Identifier: Apache-2.0
"""A process that serves test models over both protocols.

tritonclient registers the same protobuf package as `kedge_wire.oip`, so the two cannot
live in one process. Takes the address for gRPC, prints one line of JSON with its ports,
and ends when its standard input does.
"""

import asyncio
import json
import socket
import sys
from contextlib import ExitStack

import uvloop

from kedge_agent.inference.onnx import OnnxBackend
from kedge_agent.serving.catalogue import MemoryCatalogue
from kedge_agent.serving.grpc import serve_grpc
from kedge_agent.serving.http import HttpApp
from kedge_agent.serving.http_server import serve_http
from kedge_agent.serving.oip import Limits
from kedge_agent.serving.service import InferenceService
from tests.simulators.onnx_models import ONNX_TYPES, affine, echo, gather
from tests.simulators.served import OddModel, ThreadedModel

TIMEOUT_S = 2.0


async def main(address: str) -> None:
    with ExitStack() as stack:
        catalogue = MemoryCatalogue(map(OddModel, ("loading", "busy", "broken")))
        catalogue.add(OddModel("stuck"))
        catalogue.add(OddModel("odd-output"))
        backend = OnnxBackend()
        for name, version, model in (
            ("affine", "1", affine()),
            ("affine", "2", affine()),
            ("echo", "1", echo()),
            ("typed", "1", echo([d for d in ONNX_TYPES if d != "FP16"])),
            ("gather", "1", gather()),
        ):
            served = ThreadedModel(
                name=name, version=version, model=backend.load(model)
            )
            stack.callback(served.close)
            catalogue.add(served)
        service = InferenceService(catalogue, limits=Limits(timeout_s=TIMEOUT_S))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        http_port = listener.getsockname()[1]
        async with (
            serve_http(HttpApp(service), sockets=[listener]),
            serve_grpc(service, address) as grpc_port,
        ):
            sys.stdout.write(json.dumps({"http": http_port, "grpc": grpc_port}) + "\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0"))
