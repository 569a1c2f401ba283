"""The errors that canthus raises for mistakes of its users and for missing parts of a machine."""


class CanthusError(Exception):
    """Base class of all errors that the user can fix. The commands print them without a traceback.

    Each argument is one line of the message. Names and values in it may come from a file: `str` escapes line breaks and
    other control characters.
    """

    def __str__(self) -> str:
        return "\n  ".join(printable(str(line)) for line in self.args)


def printable(text: str) -> str:
    """Return a text on one line, with escapes such as \\n and \\x1b for the characters that cannot be printed."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class InputError(CanthusError):
    """An image, video, camera, label file, option or output path that cannot be used."""


class UsageError(InputError):
    """A value of an option or argument that is wrong whatever the files contain. The commands exit with 2, not 1."""


class ModelError(CanthusError):
    """A network, manifest or checkpoint that is missing, damaged or of another type."""


class BackendError(CanthusError):
    """A library or a device that a backend needs and that is missing or fails."""


class EngineError(CanthusError):
    """A TensorRT engine that does not fit this machine, or differs from its manifest."""
