# SPDX-License-Identifier: Apache-2.0
import pytest

from kedge_controlplane.errors import TrustError
from kedge_controlplane.trust.tokens import Purpose, new_token, read_token


def test_token_matches_what_was_stored_of_it() -> None:
    text = new_token(Purpose.ENROLMENT)
    stored = read_token(text)
    assert stored.purpose is Purpose.ENROLMENT
    assert read_token(text).matches(stored.secret_sha256)
    assert text.split("_")[-1] not in repr(stored)


def test_another_secret_does_not_match() -> None:
    stored = read_token(new_token(Purpose.OPERATOR))
    assert not read_token(new_token(Purpose.OPERATOR)).matches(stored.secret_sha256)


@pytest.mark.parametrize(
    "text",
    ["", "Bearer", "kedge_admin_1_2", new_token(Purpose.OPERATOR) + "\n"],
    ids=["empty", "a word", "another purpose", "a line end after it"],
)
def test_anything_else_is_no_token(text: str) -> None:
    with pytest.raises(TrustError, match="expected a token"):
        read_token(text)
