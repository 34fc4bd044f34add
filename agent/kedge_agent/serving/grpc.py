# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 - the protocol names its calls
"""The Open Inference Protocol over gRPC.

The same service as over HTTP; an error's code is the call's status. Runs on the
caller's event loop. Leaving the context stops accepting and lets calls under way
finish.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio

from kedge_agent.errors import SettingsError
from kedge_agent.serving.grpc_messages import BoundedMessages
from kedge_agent.serving.oip_grpc import encode_answer, parse_request
from kedge_agent.serving.service import (
    EXTENSIONS,
    SERVER_NAME,
    SERVER_VERSION,
    InferenceService,
)
from kedge_wire.oip import grpc_predict_v2_pb2 as oip
from kedge_wire.oip.grpc_predict_v2_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from kedge_wire.statement import TensorSpec

Context = grpc.aio.ServicerContext[Any, Any]
TensorMetadata = oip.ModelMetadataResponse.TensorMetadata

SPARE_CALLS: Final = 32
"""Calls beyond the requests that may be under way: health can always be asked."""

MAX_METADATA_BYTES: Final = 16 * 1024

MAX_CONNECTIONS: Final = 256
"""Each carries many calls."""

IDLE_MS: Final = 60_000
"""A connection without a call."""

PING_MS: Final = 20_000
"""Between pings. A client that answers none for as long again is gone."""

AGE_MS: Final = 300_000
"""Then a client is told to connect anew, which none notices, and `GRACE_MS` later its
connection ends. Only that ends a call whose client does not read the answer."""

GRACE_MS: Final = 60_000
"""Longer than any call may take."""


@asynccontextmanager
async def serve_grpc(
    service: InferenceService, address: str, *, drain_s: float = 10.0
) -> AsyncIterator[int]:
    """Serve while the context is open; gives the port, which is 1 for a Unix socket.

    Args:
        service: What answers.
        address: `host:port`, port 0 for a free one, or `unix:/path`. Who may connect to
            a Unix socket is decided by the permissions of its folder.
        drain_s: How long calls under way may take to finish on leaving.

    Raises:
        SettingsError: Nothing can listen there.
    """
    limits = service.limits
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limits.message_bytes),
            ("grpc.max_send_message_length", limits.body_bytes),
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
            ("grpc.max_connection_idle_ms", IDLE_MS),
            ("grpc.max_connection_age_ms", AGE_MS),
            ("grpc.max_connection_age_grace_ms", GRACE_MS),
            ("grpc.keepalive_time_ms", PING_MS),
            ("grpc.keepalive_timeout_ms", PING_MS),
            # Two processes on one port would each get some of the calls.
            ("grpc.so_reuseport", 0),
        ],
        interceptors=[BoundedMessages(service)],
        maximum_concurrent_rpcs=limits.in_flight + SPARE_CALLS,
    )
    add_GRPCInferenceServiceServicer_to_server(GrpcInference(service), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as exc:
        raise SettingsError(
            f"gRPC: expected an address to listen on, found {address}", element=address
        ) from exc
    await server.start()
    try:
        yield port
    finally:
        await server.stop(drain_s)


class GrpcInference(GRPCInferenceServiceServicer):
    """The protocol's calls; used from one event loop."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    async def ServerLive(
        self, request: oip.ServerLiveRequest, context: Context
    ) -> oip.ServerLiveResponse:
        del request, context
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: oip.ServerReadyRequest, context: Context
    ) -> oip.ServerReadyResponse:
        del request, context
        return oip.ServerReadyResponse(ready=self._service.ready())

    async def ServerMetadata(
        self, request: oip.ServerMetadataRequest, context: Context
    ) -> oip.ServerMetadataResponse:
        del request, context
        return oip.ServerMetadataResponse(
            name=SERVER_NAME, version=SERVER_VERSION, extensions=EXTENSIONS
        )

    async def ModelReady(
        self, request: oip.ModelReadyRequest, context: Context
    ) -> oip.ModelReadyResponse:
        del context
        served = self._service.catalogue.get(request.name, request.version)
        return oip.ModelReadyResponse(ready=served.ready)

    async def ModelMetadata(
        self, request: oip.ModelMetadataRequest, context: Context
    ) -> oip.ModelMetadataResponse:
        del context
        served = self._service.catalogue.get(request.name, request.version)
        return oip.ModelMetadataResponse(
            name=served.name,
            versions=[served.version],
            platform=served.platform,
            inputs=[_tensor(spec) for spec in served.inputs],
            outputs=[_tensor(spec) for spec in served.outputs],
        )

    async def ModelInfer(
        self, request: oip.ModelInferRequest, context: Context
    ) -> oip.ModelInferResponse:
        service = self._service
        with service.admitted():
            answer = await service.infer(
                request.model_name,
                request.model_version,
                parse_request(request, limits=service.limits),
                timeout_s=_timeout_s(context, service.limits.timeout_s),
            )
            return encode_answer(answer)


def _timeout_s(context: Context, limit_s: float) -> float:
    remaining: float | None = context.time_remaining()
    return limit_s if remaining is None else min(limit_s, max(remaining, 0.0))


def _tensor(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
