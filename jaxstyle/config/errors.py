"""User-facing exceptions: each message is one line that says what to change."""

_LONGEST = 2000
"""Most characters of a message, which may show what a damaged file has in place of a name."""

_MOST_OF_ANOTHER = 1000
"""Most characters of another library's message: XLA's may show whole programs."""


class JaxstyleError(ValueError):
    """A mistake that the user can correct; the command line exits with code 2."""

    def __init__(self, message: str) -> None:
        """Make `message` one line: characters that cannot be shown are replaced."""
        shown = (each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in message)
        super().__init__("".join(shown)[:_LONGEST])


def is_out_of_memory(error: Exception) -> bool:
    """Return whether XLA's `error` reports that memory ran out."""
    # The first appears while compiling, the second with a program loaded from the cache.
    return any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory"))


def brief(error: BaseException | str) -> str:
    """Return what another library's `error`, or its text, says, as part of a line."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    shown = text if len(text) <= _MOST_OF_ANOTHER else f"{text[:_MOST_OF_ANOTHER]}…"
    return shown or type(error).__name__


def counted(number: int, noun: str) -> str:
    """Return `number` and `noun`, in the plural unless there is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class ConfigError(JaxstyleError):
    """A setting that is unknown, out of range, or meaningless in combination with the others."""


class ImageError(JaxstyleError):
    """An image that cannot be decoded, encoded or used at this size."""


class WeightsError(JaxstyleError):
    """Network weights that cannot be fetched, are damaged or for another network."""


class OutOfMemoryError(JaxstyleError):
    """Memory that is not enough even for one image alone; the command line exits with code 1."""

    def __init__(self, message: str = "out of memory; try a smaller size") -> None:
        super().__init__(message)


class FileError(JaxstyleError):
    """A file or folder that is missing, damaged, in use, another run's, or cannot be written."""
