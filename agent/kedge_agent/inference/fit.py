# SPDX-License-Identifier: Apache-2.0
"""Whether arrays are what a signature asks for. Values are not looked at."""

from collections.abc import Mapping

import numpy as np

from kedge_agent.errors import InvalidRequestError
from kedge_agent.inference.datatypes import DTYPES, datatype_of
from kedge_wire.statement import TensorSpec


def check_inputs(
    specs: tuple[TensorSpec, ...], inputs: Mapping[str, np.ndarray]
) -> None:
    """Refuse inputs that are not exactly those of `specs`.

    Raises:
        InvalidRequestError: A name, datatype or shape does not fit; it says which.
    """
    if len(inputs) != len(specs) or any(spec.name not in inputs for spec in specs):
        expected = ", ".join(spec.name for spec in specs) or "none"
        found = ", ".join(inputs) or "none"
        raise InvalidRequestError(f"inputs: expected {expected}, found {found:.200}")
    for spec in specs:
        array = inputs[spec.name]
        if array.dtype != DTYPES[spec.datatype] or not _fits(spec.shape, array.shape):
            found = str(
                TensorSpec(
                    name=spec.name,
                    datatype=datatype_of(array) or str(array.dtype),
                    shape=array.shape,
                )
            )
            raise InvalidRequestError(
                f"input {spec.name}: expected {spec}, found {found}", element=spec.name
            )


def _fits(wanted: tuple[int, ...], found: tuple[int, ...]) -> bool:
    return len(wanted) == len(found) and all(
        want in (-1, size) for want, size in zip(wanted, found, strict=True)
    )
