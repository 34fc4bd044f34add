# SPDX-License-Identifier: Apache-2.0
"""One loaded triple {component, model, config}: serve, drain, reap.

    [loaded] --begin--> [serving] --close--> [draining] --last request--> [closed]

Which triple gets a request is the generations' affair: a triple takes what it is given
until it is closed, so one that lost its place still answers the requests inside, and a
revert finds it as it was. `begin` asks the component for its health, and a task of the
triple goes on asking until `close`. On the event loop only.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from kedge_agent.components.pool import InstancePool
from kedge_agent.errors import ModelError
from kedge_agent.inference.base import LoadedModel
from kedge_agent.runtime.health import Health
from kedge_agent.serving.catalogue import Inference
from kedge_wire.statement import TensorSpec, mismatch
from kedge_wire.v1.order_pb2 import Artifact, Workload
from kedge_wire.v1.report_pb2 import WorkloadStatus


class Triple:
    """Serves requests from one component pool and one model."""

    def __init__(
        self, *, workload: Workload, model: LoadedModel, pool: InstancePool
    ) -> None:
        """Check that they fit; the caller still owns model and pool if they do not.

        Raises:
            ModelError: The model is not what the component asks for.
        """
        problem = mismatch(
            pool.metadata.model_inputs, model.inputs, side="inputs"
        ) or mismatch(pool.metadata.model_outputs, model.outputs, side="outputs")
        if problem is not None:
            raise ModelError(
                f"model {label(workload.model)} does not fit component "
                f"{label(workload.component)}: {problem}",
                element=f"{workload.name}/model",
            )
        self.workload: Final = workload
        self.inputs: Final[tuple[TensorSpec, ...]] = (pool.metadata.accepts,)
        self.outputs: Final[tuple[TensorSpec, ...]] = pool.metadata.returns
        self._model: Final = model
        self._pool: Final = pool
        self._health: Final = Health(pool, workload=workload.name)
        self._watching: asyncio.Task[None] | None = None
        self._prepare_millis = 0
        self._parameters: Final = {
            "kedge_component": label(workload.component),
            "kedge_component_digest": workload.component.sha256,
            "kedge_model": label(workload.model),
            "kedge_model_digest": workload.model.sha256,
            "kedge_config": label(workload.config),
            "kedge_config_digest": workload.config.sha256,
            "kedge_provider": model.providers[0],
        }
        self._in_flight = 0
        self._idle: Final = asyncio.Event()
        self._idle.set()
        self.requests = 0
        self.failures = 0

    @property
    def ready(self) -> bool:
        """The component's last verdict about itself."""
        return self._health.ready

    async def begin(self, *, prepare_millis: int) -> None:
        """Get the first verdict, whatever it is, and keep it fresh from now on."""
        self._prepare_millis = prepare_millis
        await self._health.ask()
        self._watching = asyncio.create_task(
            self._health.watch(), name=f"health-{self.workload.name}"
        )

    async def infer(
        self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, str]
    ) -> Inference:
        """Run preprocess, forward and postprocess on one raw input.

        Args:
            inputs: The raw input, checked against `inputs` of this triple.
            parameters: The caller's, for the component.

        Raises:
            RequestError: One of its kinds.
        """
        (raw,) = inputs.values()
        with self._admitted():
            outputs = await self._pool.infer(raw, parameters)
        return Inference(
            outputs=outputs,
            parameters=self._parameters,
            version=self.workload.model.version,
        )

    async def close(self) -> None:
        """Wait for the requests inside, then free instances and model."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._idle.wait()
        await self._pool.close()
        self._model.close()

    def status(self, *, swap_micros: int) -> WorkloadStatus:
        workload = self.workload
        return WorkloadStatus(
            name=workload.name,
            tenant=workload.tenant,
            component_sha256=workload.component.sha256,
            model_sha256=workload.model.sha256,
            config_sha256=workload.config.sha256,
            component_version=label(workload.component),
            model_version=label(workload.model),
            config_version=label(workload.config),
            providers=self._model.providers,
            ready=self.ready,
            requests=self.requests,
            failures=self.failures,
            last_swap_micros=swap_micros,
            prepare_millis=self._prepare_millis,
        )

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        self._in_flight += 1
        self._idle.clear()
        self.requests += 1
        try:
            yield
        except BaseException:
            self.failures += 1
            raise
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()


def label(artifact: Artifact) -> str:
    """Name an artifact and its version, as people write it."""
    return f"{artifact.name}@{artifact.version}"
