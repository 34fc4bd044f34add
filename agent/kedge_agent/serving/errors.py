# SPDX-License-Identifier: Apache-2.0
"""What only the protocols raise; the rest of a request's errors are the agent's.

RequestError
  - NotReadyError    the model is known and does not serve yet
  - DeadlineError    no answer within the time that the caller waits
  - TooLargeError    the request's body is over a limit
"""

from typing import Final

from kedge_agent.errors import AgentError, RequestError

MAX_MESSAGE: Final = 1000
"""Characters of a message to a caller. It may quote a name of any length, and gRPC
drops an answer whose status is long."""


def message_to_caller(error: AgentError) -> str:
    """Return what a caller is told."""
    return str(error)[:MAX_MESSAGE]


class NotReadyError(RequestError):
    code = "UNAVAILABLE"


class DeadlineError(RequestError):
    code = "DEADLINE_EXCEEDED"


class TooLargeError(RequestError):
    code = "RESOURCE_EXHAUSTED"
