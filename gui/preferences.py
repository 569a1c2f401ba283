"""What the viewer remembers: sizes, folders, switches of the overlay, and what the user prefers."""

from dataclasses import dataclass, replace
from pathlib import Path

from PyQt6.QtCore import QByteArray, QSettings, QStandardPaths

from canthus.gui.finder import Tracking
from canthus.gui.overlay import STYLE_NAMES, OverlayStyle
from canthus.gui.theme import THEMES, Theme
from canthus.runtime.models import included_models
from canthus.runtime.streams import KINDS, Kind

FORGOTTEN = ("mirrored",)
"""Switches that depend on the source and are not remembered."""


@dataclass(frozen=True)
class Preferences:
    """What the user chooses in the dialog. It is stored by `save_preferences`."""

    theme: Theme = "system"
    folder: Path = Path()  # of recordings and snapshots
    annotated: bool = True  # recordings and snapshots show the faces
    table: bool = True  # a recording has a table
    trace: bool = False  # a recording has a trace


def _settings() -> QSettings:
    return QSettings("canthus", "canthus")


def _read_bool(settings: QSettings, key: str, default: bool) -> bool:
    """Read a switch. In an .ini file it is a text."""
    return {"true": True, "1": True, "false": False, "0": False}.get(str(settings.value(key)).lower(), default)


def _read_text(settings: QSettings, key: str) -> str:
    """Read a text; empty if there is none."""
    value = settings.value(key)
    return value if isinstance(value, str) else ""


def default_folder() -> Path:
    """Return the folder for videos of this user, or the home folder."""
    place = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.MoviesLocation)
    return Path(place) if place and Path(place).is_dir() else Path.home()


def load_preferences() -> Preferences:
    """Return the stored preferences. What is missing or makes no sense has its default."""
    settings, default = _settings(), Preferences(folder=default_folder())
    theme = next((theme for theme in THEMES if theme == settings.value("theme")), default.theme)
    stored = _read_text(settings, "recordings")
    return Preferences(
        theme=theme,
        folder=Path(stored) if stored and Path(stored).is_dir() else default.folder,
        annotated=_read_bool(settings, "annotated", default.annotated),
        table=_read_bool(settings, "table", default.table),
        trace=_read_bool(settings, "trace", default.trace),
    )


def save_preferences(preferences: Preferences) -> None:
    """Store the preferences."""
    settings = _settings()
    settings.setValue("recordings", str(preferences.folder))
    for name in ("theme", "annotated", "table", "trace"):
        settings.setValue(name, getattr(preferences, name))


def load_style(default: OverlayStyle) -> OverlayStyle:
    """Return the overlay with the stored switches."""
    settings, names = _settings(), [name for name in STYLE_NAMES if name not in FORGOTTEN]
    stored = {name: _read_bool(settings, f"overlay/{name}", getattr(default, name)) for name in names}
    return replace(default, **stored)


def save_style(style: OverlayStyle) -> None:
    """Store the switches of the overlay."""
    settings = _settings()
    for name in STYLE_NAMES:
        if name not in FORGOTTEN:
            settings.setValue(f"overlay/{name}", getattr(style, name))


def load_window() -> tuple[QByteArray, QByteArray] | None:
    """Return the stored geometry and arrangement of the window; None the first time."""
    settings = _settings()
    geometry, state = settings.value("window/geometry"), settings.value("window/state")
    return (geometry, state) if isinstance(geometry, QByteArray) and isinstance(state, QByteArray) else None


def save_window(geometry: QByteArray, state: QByteArray) -> None:
    """Store the geometry and the arrangement of the window."""
    settings = _settings()
    settings.setValue("window/geometry", geometry)
    settings.setValue("window/state", state)


def load_networks() -> tuple[str | None, bool]:
    """Return the name of the model that the user chose last (None: the default), and whether a GPU may be used."""
    settings = _settings()
    model = _read_text(settings, "tracking/model")
    return model if model in included_models() else None, _read_bool(settings, "tracking/gpu", True)


def save_networks(before: Tracking, chosen: Tracking) -> None:
    """Store the model and the device if the user has changed them. What an option of a command says is not stored."""
    settings = _settings()
    if chosen.model != before.model:
        settings.setValue("tracking/model", str(chosen.model or ""))
    if chosen.gpu != before.gpu:
        settings.setValue("tracking/gpu", chosen.gpu)


def load_addresses() -> dict[Kind, str]:
    """Return where the streams were sent last, by their kind; empty texts for the default."""
    settings = _settings()
    return {kind: _read_text(settings, f"streams/{kind}") for kind in KINDS}


def save_address(kind: Kind, where: str) -> None:
    """Store where a stream is sent."""
    _settings().setValue(f"streams/{kind}", where)
