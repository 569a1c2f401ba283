"""The errors that canthus raises for mistakes of its users and for missing parts of a machine."""


class CanthusError(Exception):
    """Base class of all errors that the user can fix. The commands print them as one line, without a traceback."""


class InputError(CanthusError):
    """An image, video, camera, label file, option or output path that cannot be used."""


class ModelError(CanthusError):
    """A network, manifest or checkpoint that is missing, damaged or of another type."""


class BackendError(CanthusError):
    """A library or a device that a backend needs and that is missing or fails."""


class EngineError(CanthusError):
    """A TensorRT engine that does not fit this machine, or differs from its manifest."""
