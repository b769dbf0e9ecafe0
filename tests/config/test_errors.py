"""What other libraries say becomes part of a line."""

import pytest

from jaxstyle.config import ConfigError, brief, counted


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one\n  two\n"), "one two"),
        (ValueError("x" * 1000), "x" * 1000),
        (ValueError("x" * 1001), "x" * 1000 + "…"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError(), "ValueError"),
    ],
)
def test_messages_are_one_line(error: Exception, text: str) -> None:
    assert brief(error) == text


def test_one_is_not_in_the_plural() -> None:
    assert [counted(number, "cell") for number in (0, 1, 2)] == ["0 cells", "1 cell", "2 cells"]


def test_errors_are_one_line() -> None:
    assert str(ConfigError("a\nb\x1b[31m×\udc80")) == "a\ufffdb\ufffd[31m×\ufffd"
    assert len(str(ConfigError("x" * 10000))) == 2000
