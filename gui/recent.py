"""The files, addresses and the folder that were opened last."""

from pathlib import Path

from PyQt6.QtCore import QSettings

from canthus.runtime.addresses import is_address, without_password

KEY = "recent"
FOLDER_KEY = "folder"
MOST = 8


def recent() -> list[str]:
    """Return paths and addresses, the last one first, without files that are gone."""
    stored = QSettings("canthus", "canthus").value(KEY, [])
    texts = [stored] if isinstance(stored, str) else [text for text in stored or [] if isinstance(text, str)]
    return [text for text in texts if is_address(text) or Path(text).exists()]


def remember(text: str) -> None:
    """Put a path or an address first. A password in an address is not stored."""
    settings = QSettings("canthus", "canthus")
    if is_address(text):
        text = without_password(text)
    else:
        text = str(Path(text).absolute())
        settings.setValue(FOLDER_KEY, str(Path(text).parent))
    settings.setValue(KEY, [text, *(other for other in recent() if other != text)][:MOST])


def last_folder() -> str:
    """Return the folder of the file or folder that was opened last; empty before the first one."""
    folder = QSettings("canthus", "canthus").value(FOLDER_KEY)
    return folder if isinstance(folder, str) else ""


def last_address() -> str:
    """Return the address that was opened last; empty before the first one."""
    return next(filter(is_address, recent()), "")


def forget_all() -> None:
    """Empty the list."""
    QSettings("canthus", "canthus").remove(KEY)
