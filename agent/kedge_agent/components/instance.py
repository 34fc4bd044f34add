# SPDX-License-Identifier: Apache-2.0
"""One instance of a component: a store, its tables and its host functions.

    new --configure--> ready --infer--> ready
     |                   |
     +------ a trap, the deadline or worn out ------> broken (only close is left)

Everything runs on the thread that made it. No WASI and no clock, file or socket is
linked: a component has its arguments, the tensors of the request, the models granted to
it and the log. Between two requests nothing of the first is left on our side; what the
component keeps in its own memory is its own affair. A store that was interrupted
anywhere is only ever closed.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from wasmtime import Store, WasmtimeError

from kedge_agent.components.calls import CallError, Export, Imports
from kedge_agent.components.engine import CompiledComponent, ticks
from kedge_agent.components.values import BindingError
from kedge_agent.errors import (
    ComponentError,
    ConfigError,
    GuestError,
    InvalidRequestError,
    OverloadedError,
    TrapError,
)
from kedge_agent.host.inference import Models
from kedge_agent.host.log import GuestLog
from kedge_agent.host.refusal import Refusal, exhausted
from kedge_agent.host.tensors import TensorLimits, Tensors, TensorTable
from kedge_agent.inference.base import LoadedModel
from kedge_agent.inference.datatypes import datatype_of
from kedge_wire.inspection import limit_store, reason
from kedge_wire.world import (
    INFERENCE,
    LIFECYCLE,
    LOG,
    MODEL_COMPONENT,
    TENSORS,
    ComponentMetadata,
    WorldError,
)

NamedArray = tuple[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceLimits:
    """Bounds on one instance."""

    memory_bytes: int = 64 * 1024 * 1024
    """Linear memory."""

    tensors: TensorLimits = field(default_factory=TensorLimits)


class Instance:
    """A component at work; one thread's."""

    def __init__(
        self,
        compiled: CompiledComponent,
        *,
        models: Mapping[str, LoadedModel],
        limits: InstanceLimits,
        log: GuestLog,
        deadline: float,
    ) -> None:
        """Instantiate.

        Raises:
            ComponentError: It asks for more than the limits, or traps at once.
        """
        self.broken = False
        self._deadline = deadline
        self._engine: Final = compiled.engine
        self._table: Final = TensorTable(limits.tensors)
        self._models: Final = Models(models, self._table)
        self._imports: Final = Imports(
            compiled.engine.engine,
            functions={
                TENSORS: Tensors(self._table).functions(),
                INFERENCE: self._models.functions(),
                LOG: log.functions(),
            },
            drops={"tensor": self._table.drop, "model": self._models.drop},
            check_time=self._check_time,
        )
        self._store: Final = Store(compiled.engine.engine)
        limit_store(self._store, memory_bytes=limits.memory_bytes)
        exports = self._instantiate(compiled, deadline)
        self._metadata: Final = exports["metadata"]
        self._preprocess: Final = exports["preprocess"]
        self._forward: Final = exports["forward"]
        self._postprocess: Final = exports["postprocess"]
        self._configure: Final = exports["configure"]
        self._health: Final = exports["health"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def metadata(self, *, deadline: float) -> ComponentMetadata:
        """What the component says about itself.

        Raises:
            ComponentError: It says nothing that we accept.
        """
        with self._timed(deadline):
            record = self._metadata()
        try:
            return ComponentMetadata.from_record(record)
        except WorldError as exc:
            raise ComponentError(f"component: {exc}") from exc

    def configure(self, text: str, *, deadline: float) -> None:
        """Hand over the configuration.

        Raises:
            ConfigError: It is no Unicode, or the component refuses it; what it had
                before stays in force.
        """
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise ConfigError(f"config: expected Unicode ({exc})") from exc
        with self._timed(deadline):
            try:
                self._configure(text)
            except Refusal as refusal:
                raise ConfigError(f"config: {refusal}") from refusal

    def health(self, *, deadline: float) -> None:
        """Return if the component can serve.

        Raises:
            RequestError: It cannot, and says why.
        """
        with self._timed(deadline):
            self._health()

    def infer(
        self, raw: np.ndarray, params: Mapping[str, str], *, deadline: float
    ) -> list[NamedArray]:
        """Preprocess, forward, postprocess.

        Raises:
            RequestError: One of its kinds. The instance is broken after `TrapError` and
                past the deadline.
        """
        if datatype_of(raw) is None:
            raise InvalidRequestError(
                f"raw: expected a type of the protocol, found {raw.dtype}"
            )
        options = list(params.items())
        _check_text(options)
        with self._timed(deadline):
            inputs = self._preprocess(self._table.add(raw), options)
            outputs = self._forward(inputs, options)
            return self._answer(self._postprocess(outputs, options))

    def close(self) -> None:
        """Free the store, then what its host functions stood on."""
        self.broken = True
        self._store.close()
        self._imports.close()
        self._table.clear()

    def _instantiate(
        self, compiled: CompiledComponent, deadline: float
    ) -> dict[str, Export]:
        try:
            with self._timed(deadline):
                instance = self._imports.instantiate(self._store, compiled.component)
        except WasmtimeError as exc:
            self.close()
            raise ComponentError(
                f"component: cannot be instantiated: {reason(exc)}"
            ) from exc
        except BaseException:
            self.close()
            raise
        return {
            item: Export(self._store, instance, interface, item)
            for interface, item in _CALLED
        }

    def _answer(self, tensors: list[tuple[str, int]]) -> list[NamedArray]:
        names = {name for name, _ in tensors}
        if len(names) != len(tensors):
            found = ", ".join(name for name, _ in tensors)
            raise GuestError(f"answer: expected each name once, found {found:.200}")
        return [(name, self._table.take(number)) for name, number in tensors]

    @contextlib.contextmanager
    def _timed(self, deadline: float) -> Iterator[None]:
        """Let the component run until `deadline`, and tell its end apart."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise OverloadedError("time: the request's time was over before it began")
        self._deadline = deadline
        self._engine.admit()  # before: it brings the count of epochs up to date
        try:
            self._store.set_epoch_deadline(ticks(left))
            yield
        except Refusal as refusal:
            raise refusal.as_request_error() from refusal
        except (CallError, BindingError) as exc:
            self.broken = True
            if time.monotonic() >= deadline:
                raise OverloadedError("time: the component was stopped") from exc
            raise TrapError(f"component: {reason(exc)}") from exc
        finally:
            self._engine.release()
            self._table.clear()
            if self._table.worn_out or self._models.worn_out:
                self.broken = True

    def _check_time(self) -> None:
        if time.monotonic() >= self._deadline:
            raise exhausted("the request's time is over")


def _check_text(parameters: list[tuple[str, str]]) -> None:
    """Components take Unicode; JSON can smuggle in halves of surrogate pairs."""
    try:
        for name, value in parameters:
            name.encode()
            value.encode()
    except UnicodeEncodeError as exc:
        raise InvalidRequestError(f"parameters: expected Unicode ({exc})") from exc


_CALLED: Final = (
    (MODEL_COMPONENT, "metadata"),
    (MODEL_COMPONENT, "preprocess"),
    (MODEL_COMPONENT, "forward"),
    (MODEL_COMPONENT, "postprocess"),
    (LIFECYCLE, "configure"),
    (LIFECYCLE, "health"),
)
