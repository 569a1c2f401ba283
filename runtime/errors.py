"""What can go wrong for a person, each with a message that says what to do."""


class CanthusError(Exception):
    """A mistake or a lack that its reader can mend; printed as one line, without a traceback."""


class InputError(CanthusError):
    """A picture, video, camera, label file or output path that cannot be used."""


class ModelError(CanthusError):
    """A network, manifest or checkpoint that is missing, damaged or of another kind."""


class BackendError(CanthusError):
    """A library or device that a backend needs and this machine lacks."""


class EngineError(CanthusError):
    """A compiled engine that does not fit this machine, or is not what its manifest says."""
