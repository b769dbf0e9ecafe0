"""What other libraries say becomes part of a line."""

import pytest

from jaxstyle.config import brief


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("a\0b\x1b[31m"), "a\ufffdb\ufffd[31m"),
        (ValueError("x" * 1000), "x" * 200),
        (ValueError(), "ValueError"),
    ],
)
def test_messages_are_shortened(error: Exception, text: str) -> None:
    assert brief(error) == text
