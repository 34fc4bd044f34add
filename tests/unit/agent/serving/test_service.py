# SPDX-License-Identifier: Apache-2.0
"""What the service says of an answer, and the bytes that it counts."""

import numpy as np
import pytest

from kedge_agent.errors import OverloadedError
from kedge_agent.serving.budget import Budget
from kedge_agent.serving.catalogue import MemoryCatalogue
from kedge_agent.serving.oip import InferRequest
from kedge_agent.serving.service import InferenceService
from tests.simulators.served import OddModel

REQUEST = InferRequest(
    id="", parameters={}, inputs={"x": np.zeros(1, dtype=np.float32)}, outputs=()
)


@pytest.mark.parametrize(
    ("says", "found"), [("", "1"), ("1.5", "1.5")], ids=["asked", "answered"]
)
async def test_answer_names_the_version_that_answered(says: str, found: str) -> None:
    model = OddModel("swapped")
    model.says = says
    service = InferenceService(MemoryCatalogue([model]))
    answer = await service.infer("swapped", "", REQUEST, timeout_s=1)
    assert model.version == "2"
    assert answer.model_version == found


def test_budget_refuses_what_does_not_fit_and_counts_the_rest() -> None:
    budget = Budget(10)
    with budget.holding(6):
        with pytest.raises(OverloadedError, match=r"at most 10 bytes .* 6 and 5 more"):
            budget.take(5)
        budget.take(4)
    assert budget.taken_bytes == 4
