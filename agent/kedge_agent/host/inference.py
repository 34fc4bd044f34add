# SPDX-License-Identifier: Apache-2.0
"""The models granted to one workload: `kedge:ai/inference`.

A handle stands for a grant, not for memory: models are loaded before any component
runs, and are shared by its instances. Used on the thread of one store.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from kedge_agent.errors import (
    AgentError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
)
from kedge_agent.host.refusal import Reason, Refusal, exhausted, invalid
from kedge_agent.host.tensors import MAX_NUMBER, WORN_OUT, TensorTable
from kedge_agent.inference.base import LoadedModel
from kedge_agent.inference.datatypes import datatype_of

MAX_OPEN: Final = 64
"""Handles that an instance may hold: a component needs one a model."""

_REASONS: Final[tuple[tuple[type[AgentError], Reason], ...]] = (
    (InvalidRequestError, Reason.INVALID_ARGUMENT),
    (NotFoundError, Reason.NOT_FOUND),
    (OverloadedError, Reason.RESOURCE_EXHAUSTED),
)


class Models:
    """The host functions over the granted models."""

    def __init__(self, models: Mapping[str, LoadedModel], table: TensorTable) -> None:
        self._models: Final = models
        self._table: Final = table
        self._open: dict[int, LoadedModel] = {}
        self._last = 0

    @property
    def worn_out(self) -> bool:
        """Whether the numbers behind handles are about to run out."""
        return self._last > WORN_OUT

    def functions(self) -> Mapping[str, Any]:
        """Functions by their item name in the interface."""
        return {"[static]model.load": self._load, "[method]model.infer": self._infer}

    def drop(self, number: int) -> None:
        """Forget a handle."""
        self._open.pop(number, None)

    def _load(self, name: str) -> int:
        model = self._models.get(name)
        if model is None:
            granted = ", ".join(self._models) or "none"
            raise Refusal(
                Reason.NOT_FOUND, f"model {name[:80]!r}: expected one of {granted}"
            )
        if len(self._open) >= MAX_OPEN:
            raise exhausted(f"models: expected at most {MAX_OPEN} open handles")
        if self._last >= MAX_NUMBER:
            raise exhausted("models: the numbers of this instance are used up")
        self._last += 1
        self._open[self._last] = model
        return self._last

    def _infer(
        self, number: int, inputs: Sequence[tuple[str, int]]
    ) -> Sequence[tuple[str, int]]:
        # Every handle was given to us: every tensor is taken before a refusal.
        arrays = [(name, self._table.take(tensor)) for name, tensor in inputs]
        named = dict(arrays)
        if len(named) != len(arrays):
            names = ", ".join(name for name, _ in arrays)
            raise invalid(f"inputs: expected each name once, found {names}")
        outputs = self._run(self._open[number], named)
        return [
            (name, self._table.add(_typed(name, array)))
            for name, array in outputs.items()
        ]

    def _run(
        self, model: LoadedModel, inputs: Mapping[str, np.ndarray]
    ) -> Mapping[str, np.ndarray]:
        contiguous = {
            name: np.ascontiguousarray(array) for name, array in inputs.items()
        }
        try:
            return model.run(contiguous)
        except AgentError as exc:
            reasons = (reason for kind, reason in _REASONS if isinstance(exc, kind))
            raise Refusal(next(reasons, Reason.INTERNAL), str(exc)) from exc


def _typed(name: str, array: np.ndarray) -> np.ndarray:
    if datatype_of(array) is None:
        raise Refusal(
            Reason.INTERNAL,
            f"output {name}: expected a type of the protocol, found {array.dtype}",
        )
    return array
