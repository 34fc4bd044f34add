# SPDX-License-Identifier: Apache-2.0
"""The one door through which both protocols reach the models.

It bounds what is under way, refuses what does not fit a model's signature, and gives up
when the caller would. Used from one event loop; it holds no request's data, only the
count of its bytes.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

from kedge_agent.errors import OverloadedError
from kedge_agent.inference.fit import check_inputs
from kedge_agent.serving.budget import Budget
from kedge_agent.serving.catalogue import Catalogue
from kedge_agent.serving.errors import DeadlineError, NotReadyError
from kedge_agent.serving.oip import InferAnswer, InferRequest, Limits, requested

SERVER_NAME: Final = "kedge"
SERVER_VERSION: Final = version("kedge")
EXTENSIONS: Final = ("binary_tensor_data",)


class InferenceService:
    """Answers requests from a catalogue.

    Attributes:
        catalogue: Where models are found, at the time of each request.
        limits: What callers may ask for.
        budget: The bytes that both protocols may hold.
    """

    def __init__(self, catalogue: Catalogue, *, limits: Limits | None = None) -> None:
        self.catalogue: Final = catalogue
        self.limits: Final = limits or Limits()
        self.budget: Final = Budget(self.limits.buffered_bytes)
        self._in_flight = 0

    def ready(self) -> bool:
        """Say whether every model serves; false where there is none to serve.

        The protocol has readiness for whoever sends requests here, and without a model
        each would be refused.
        """
        names = self.catalogue.names()
        return bool(names) and all(self.catalogue.get(name).ready for name in names)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count one request, which has arrived, as under way.

        Raises:
            OverloadedError: As many are under way as may be.
        """
        if self._in_flight >= self.limits.in_flight:
            raise OverloadedError(
                f"expected at most {self.limits.in_flight} requests under way, "
                "found one more"
            )
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def infer(
        self, name: str, version: str, request: InferRequest, *, timeout_s: float
    ) -> InferAnswer:
        """Answer one admitted request.

        Raises:
            AgentError: Its code decides the caller's status.
        """
        served = self.catalogue.get(name, version)
        if not served.ready:
            raise NotReadyError(f"model {name}: not ready", element=name)
        check_inputs(served.inputs, request.inputs)
        asked = served.version  # may be another by the time of the answer
        try:
            async with asyncio.timeout(timeout_s):
                inference = await served.infer(
                    request.inputs, parameters=request.parameters, timeout_s=timeout_s
                )
        except TimeoutError as exc:
            raise DeadlineError(
                f"model {name}: expected an answer within {timeout_s:.3f} s",
                element=name,
            ) from exc
        return InferAnswer(
            model_name=served.name,
            model_version=inference.version or asked,
            id=request.id,
            parameters=inference.parameters,
            outputs=requested(inference.outputs, request.outputs),
        )
