"""The exceptions a user meets: each message is one line that says what to change."""


class JaxstyleError(ValueError):
    """A mistake that the user can correct; the command line exits with code 2."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether XLA's `error` says that memory ran out."""
    # The first while compiling, the second of a program that came from the cache.
    return any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory"))


class ConfigError(JaxstyleError):
    """A setting is unknown, out of range, or has no meaning with the others."""


class ImageError(JaxstyleError):
    """An image cannot be read, written or used at this size."""


class WeightsError(JaxstyleError):
    """Network weights are missing, damaged or of another network."""


class RunError(JaxstyleError):
    """A run's folder is in use, of other settings, damaged, or cannot be written to."""
