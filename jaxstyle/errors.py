"""The exceptions a user meets: each message is one line that says what to change."""


class JaxstyleError(ValueError):
    """A mistake that the user can correct; the command line exits with code 2."""


class ConfigError(JaxstyleError):
    """A setting is unknown, out of range, or has no meaning with the others."""


class ImageError(JaxstyleError):
    """An image cannot be read, written or used at this size."""


class WeightsError(JaxstyleError):
    """Network weights are missing, damaged or of another network."""
