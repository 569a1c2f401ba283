"""What the window says about the state of a playback."""

from dataclasses import dataclass

from PyQt6.QtCore import QCoreApplication

from canthus.gui.playback import Disconnected, Ended, Failed, Opening, Playing, State
from canthus.runtime.errors import CanthusError, InputError


@dataclass(frozen=True)
class Message:
    """A card with title and text, and a short hint at the bottom edge. Empty texts are not shown."""

    title: str = ""
    text: str = ""
    hint: str = ""


def tr(text: str) -> str:
    """Translate a text of this file."""
    return QCoreApplication.translate("States", text)


def describe_state(state: State, name: str, has_result: bool, has_faces: bool, is_stream: bool = False) -> Message:
    """Describe a state. `name` is the source; has_result, has_faces: a frame was shown, and searched for faces.

    is_stream: the source is an address, not a camera.
    """
    match state:
        case Failed(error):
            return _describe_failure(error, name)
        case Disconnected(reason):
            if is_stream:
                title = tr("Stream interrupted") if has_result else tr("Stream not available")
            else:
                title = tr("Camera disconnected") if has_result else tr("Camera not available")
            return Message(title, f"{_sentence(reason)}\n{tr('Retrying every second…')}")
        case Opening():
            return Message(tr("Opening {name}…").format(name=name))
        case Ended(damaged):
            what = (
                tr("The file is damaged: {damage}").format(damage=damaged)
                if damaged
                else tr("Press Space to play again")
            )
            return Message(hint=f"{tr('End of video')}  ·  {what}")
        case Playing() if not has_faces:
            return Message(hint=f"{tr('Loading the models…')}  ·  {tr('The first start can take a little longer.')}")
        case Playing():
            return Message()


def _describe_failure(error: BaseException, name: str) -> Message:
    if not isinstance(error, CanthusError):  # a bug
        return Message(
            tr("Internal error"), f"{type(error).__name__}: {error}\n{tr('The terminal shows where it happened.')}"
        )
    title = tr("Can't play {name}").format(name=name) if isinstance(error, InputError) else tr("Can't find faces")
    return Message(title, _sentence(str(error)))


def _sentence(text: str) -> str:
    """Capitalise a command-line message for the window, unless it begins with a file name."""
    first = text.split(maxsplit=1)[0] if text else ""
    return text[:1].upper() + text[1:] if first.isalpha() else text
