"""The errors of this library: each is a ValueError, and each says what would be right."""


class InputError(ValueError):
    """Bad input: an argument, a file or a setting. The message names it and the remedy."""


class DataError(InputError):
    """A file of points that cannot be read; the message names the file, the line and the remedy."""


class ConfigError(InputError):
    """A setting out of range, or a configuration file that cannot be read."""


class CheckpointError(InputError):
    """A checkpoint that is damaged, missing, or belongs to another run."""
