# SPDX-License-Identifier: Apache-2.0
"""What the protocols serve from: models by name.

The seam between the Open Inference Protocol and whatever answers. The servers look a
model up for every request and keep nothing of it afterwards, so replacing what `get`
returns is the whole of a swap: a request under way finishes on what it was given.
Everything here is called on the event loop and must not block it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from kedge_agent.errors import NotFoundError
from kedge_wire.statement import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """One answer: outputs in order, and parameters about them (a digest, say).

    `version` is of the model that answered; empty, it is what `Served` said when it was
    asked. Only who answers knows it where a `Served` changes its version.
    """

    outputs: list[tuple[str, np.ndarray]]
    parameters: dict[str, str] = field(default_factory=dict)
    version: str = ""


class Served(Protocol):
    """One version of one model that answers requests.

    Not promised: that a model which was ready answers, or that answers come in the
    order of the requests. A BYTES tensor is an object array of `bytes`.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def platform(self) -> str: ...
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def ready(self) -> bool: ...

    async def infer(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        parameters: Mapping[str, str],
        timeout_s: float,
    ) -> Inference:
        """Answer one request.

        Args:
            inputs: By name; they fit `self.inputs`. The arrays are only read: they may
                be views of the request.
            parameters: The request's own, as text.
            timeout_s: How long the caller waits; the answer is thrown away after that.

        Raises:
            RequestError: One of its kinds; its code decides the status that the caller
                gets.
        """
        ...


class Catalogue(Protocol):
    """Finds what serves a name."""

    def names(self) -> list[str]:
        """Name every model, sorted."""
        ...

    def get(self, name: str, version: str = "") -> Served:
        """Find a model; an empty version is the one that serves now.

        Raises:
            NotFoundError: No such model, or not in that version.
        """
        ...


class MemoryCatalogue:
    """A catalogue that is told what it holds: the latest added of a name serves it."""

    def __init__(self, served: Iterable[Served] = ()) -> None:
        self._models: dict[str, dict[str, Served]] = {}
        for one in served:
            self.add(one)

    def add(self, served: Served) -> None:
        """Serve this version under its name; earlier ones can still be asked for."""
        versions = self._models.setdefault(served.name, {})
        versions.pop(served.version, None)
        versions[served.version] = served

    def names(self) -> list[str]:
        return sorted(self._models)

    def get(self, name: str, version: str = "") -> Served:
        versions = self._models.get(name)
        if versions is None:
            raise NotFoundError(f"model {name}: not found", element=name)
        if not version:
            return next(reversed(versions.values()))
        if version not in versions:
            raise NotFoundError(
                f"model {name}: expected version {', '.join(versions)}, "
                f"found {version}",
                element=name,
            )
        return versions[version]
