"""The files and addresses that were opened last."""

from pathlib import Path

from PyQt6.QtCore import QSettings

from canthus.runtime.addresses import is_address, without_password

KEY = "recent"
MOST = 8


def recent() -> list[str]:
    """Return paths and addresses, the last one first, without files that are gone."""
    stored = QSettings("canthus", "canthus").value(KEY, [])
    texts = [stored] if isinstance(stored, str) else [text for text in stored or [] if isinstance(text, str)]
    return [text for text in texts if is_address(text) or Path(text).exists()]


def remember(text: str) -> None:
    """Put a path or an address first. A password in an address is not stored."""
    text = without_password(text) if is_address(text) else str(Path(text).absolute())
    QSettings("canthus", "canthus").setValue(KEY, [text, *(other for other in recent() if other != text)][:MOST])


def forget_all() -> None:
    """Empty the list."""
    QSettings("canthus", "canthus").remove(KEY)
