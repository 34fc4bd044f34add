# SPDX-License-Identifier: Apache-2.0
"""The seam to whatever runs models.

A `Backend` turns verified model bytes into a `LoadedModel`; the closed public methods
decide what is refused, one hook below each does the work. Loading and running block:
callers give them a thread. A `LoadedModel` may be run from many threads at once. An
interruption leaves nothing behind: what was loaded goes with the process.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final, final

import numpy as np

from kedge_agent.errors import (
    GuestError,
    ModelError,
    ProviderError,
)
from kedge_agent.inference.fit import check_inputs
from kedge_wire.onnx_model import ModelSignature, OnnxModelError, read_signature
from kedge_wire.statement import TensorSpec

CPU: Final = "CPUExecutionProvider"
"""What every device has, under ONNX Runtime's name for it."""


class LoadedModel(ABC):
    """One model, ready to run, from any number of threads.

    Not promised: that two runs on equal inputs answer equal bits (providers reorder
    sums), that runs are fair to one another, or that a run can be stopped. Values are
    not looked at: NaN and infinity go in and come out.

    Attributes:
        inputs: What `run` takes, all of it, in the model's order.
        outputs: What `run` answers, in the model's order.
        providers: Execution providers that really run a part of the model, most
            preferred first.
    """

    def __init__(
        self,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        providers: tuple[str, ...],
    ) -> None:
        self.inputs: Final = inputs
        self.outputs: Final = outputs
        self.providers: Final = providers
        self._closing: Final = threading.Lock()
        self._closed = False

    @final
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once.

        Args:
            inputs: Exactly the model's inputs. BYTES is an object array of `bytes`. The
                arrays are only read, and not kept.

        Returns:
            Every output, in the model's order, in memory of its own.

        Raises:
            InvalidRequestError: Names, datatypes or shapes do not fit the model's
                inputs.
            GuestError: The model failed, or is closed.
        """
        check_inputs(self.inputs, inputs)
        if self._closed:
            raise GuestError("the model is closed: expected an open one")
        return self._run(inputs)

    @final
    def close(self) -> None:
        """Let go of the model. Runs under way finish; closing again does nothing."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._close()

    @abstractmethod
    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run on checked inputs. Raises what `run` does."""

    @abstractmethod
    def _close(self) -> None:
        """Free what `_load` took; called once, perhaps while runs are under way."""


class Backend(ABC):
    """Loads models.

    Not promised: that a model which loads also runs on every input its signature
    allows.
    """

    @abstractmethod
    def available_providers(self) -> tuple[str, ...]:
        """Name the execution providers that this device offers, most capable first."""

    @final
    def load(
        self,
        model: bytes,
        *,
        providers: Sequence[str] = (),
        require_providers: Sequence[str] = (),
    ) -> LoadedModel:
        """Load a model from bytes that were verified before.

        Args:
            model: An ONNX file.
            providers: Execution providers in order of preference; those that this
                device does not offer are passed over. None asked for: the CPU.
            require_providers: The most preferred provider really used must be one of
                these, if there are any.

        Raises:
            ModelError: Not a model that this backend loads.
            ProviderError: No provider asked for is offered, or the one used is not one
                required.
        """
        try:
            signature = read_signature(model)
        except OnnxModelError as exc:
            raise ModelError(str(exc)) from exc
        loaded = self._load(model, signature, self._offered(providers))
        used = loaded.providers[0]
        if require_providers and used not in require_providers:
            loaded.close()
            raise ProviderError(
                "providers: expected the model to run on "
                f"{', '.join(require_providers)}, found that it runs on {used}",
                element=used,
            )
        return loaded

    @abstractmethod
    def _load(
        self, model: bytes, signature: ModelSignature, providers: tuple[str, ...]
    ) -> LoadedModel:
        """Load with `providers`, one or more, all offered. Raises `ModelError`."""

    def _offered(self, wanted: Sequence[str]) -> tuple[str, ...]:
        available = self.available_providers()
        offered = tuple(name for name in wanted or (CPU,) if name in available)
        if not offered:
            raise ProviderError(
                f"providers: expected one of {', '.join(available)}, "
                f"found {', '.join(wanted)}",
                element=wanted[0] if wanted else CPU,
            )
        return offered
