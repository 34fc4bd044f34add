# SPDX-License-Identifier: Apache-2.0
"""Models for the protocols to serve: a real one, and ones that misbehave."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kedge_agent.errors import OverloadedError
from kedge_agent.inference.base import LoadedModel
from kedge_agent.serving.catalogue import Inference
from kedge_wire.statement import TensorSpec

NUMBER = (TensorSpec(name="x", datatype="FP32", shape=(-1,)),)


class ThreadedModel:
    """A loaded model on two threads of its own, without a component."""

    platform = "onnxruntime_onnx"
    ready = True

    def __init__(self, *, name: str, version: str, model: LoadedModel) -> None:
        self.name = name
        self.version = version
        self.inputs = model.inputs
        self.outputs = model.outputs
        self._model = model
        self._threads = ThreadPoolExecutor(2, thread_name_prefix=name)

    async def infer(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        parameters: Mapping[str, str],
        timeout_s: float,
    ) -> Inference:
        del timeout_s
        loop = asyncio.get_running_loop()
        outputs = await loop.run_in_executor(self._threads, self._model.run, inputs)
        return Inference(outputs=list(outputs.items()), parameters=dict(parameters))

    def close(self) -> None:
        self._threads.shutdown()
        self._model.close()


class OddModel:
    """Fails as its name says: loading, busy, broken, odd-output, or stuck.

    `stuck` answers once `release` is set; `asked` is set when a request reaches it, and
    `gone` when it was cancelled. `swapped` becomes version 2 while it answers, as
    `says` says.
    """

    platform = "test"
    inputs = NUMBER
    outputs = NUMBER

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = "1"
        self.says = ""
        self.ready = name != "loading"
        self.asked = asyncio.Event()
        self.release = asyncio.Event()
        self.gone = asyncio.Event()

    async def infer(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        parameters: Mapping[str, str],
        timeout_s: float,
    ) -> Inference:
        del parameters, timeout_s
        self.asked.set()
        if self.name == "busy":
            raise OverloadedError("queue: expected room, found none")
        if self.name == "broken":
            raise RuntimeError("secret detail")
        if self.name == "odd-output":
            return Inference(outputs=[("x", np.zeros(1, dtype=np.complex64))])
        if self.name == "swapped":
            self.version = "2"
        else:
            await self._released()
        return Inference(outputs=list(inputs.items()), version=self.says)

    async def _released(self) -> None:
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.gone.set()
            raise
