# SPDX-License-Identifier: Apache-2.0
"""Label selectors as a manifest states them; pure matching.

Each requirement is a sub-query of the store, so their number is bounded.
"""

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from kedge_controlplane.model.meta import KedgeModel, Labels, label_key, label_value

MAX_REQUIREMENTS: Final = 32  # of each form
MAX_VALUES: Final = 256


class Operator(StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(KedgeModel):
    """One expression over a label; absent labels satisfy NotIn and DoesNotExist."""

    key: Annotated[str, AfterValidator(label_key)]
    operator: Operator
    values: list[Annotated[str, AfterValidator(label_value)]] = Field(
        default_factory=list, max_length=MAX_VALUES
    )

    @model_validator(mode="after")
    def _values_fit_operator(self) -> Self:
        needs_values = self.operator in (Operator.IN, Operator.NOT_IN)
        if needs_values != bool(self.values):
            expected = "values" if needs_values else "no values"
            raise ValueError(f"operator {self.operator} takes {expected}")
        return self

    def matches(self, labels: dict[str, str]) -> bool:
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


class LabelSelector(KedgeModel):
    """All of it must hold; an empty selector matches everything."""

    match_labels: Labels = Field(default_factory=dict, max_length=MAX_REQUIREMENTS)
    match_expressions: list[Requirement] = Field(
        default_factory=list, max_length=MAX_REQUIREMENTS
    )

    def matches(self, labels: dict[str, str]) -> bool:
        return all(labels.get(k) == v for k, v in self.match_labels.items()) and all(
            requirement.matches(labels) for requirement in self.match_expressions
        )
