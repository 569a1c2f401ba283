"""The dialogs: preferences, and about canthus."""

import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from PyQt6.QtCore import PYQT_VERSION_STR, QCoreApplication, Qt, qVersion
from PyQt6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from canthus.gui.preferences import Preferences
from canthus.gui.theme import THEMES, Theme

LIBRARIES = (
    ("openvino", "Apache 2.0"),
    ("mediapipe", "Apache 2.0"),
    ("opencv-contrib-python", "Apache 2.0"),
    ("av", "BSD; FFmpeg: LGPL or GPL"),
    ("numpy", "BSD"),
    ("PyQt6", "GPL 3 or commercial"),
)
"""Libraries that the viewer uses, with their licences."""


def tr(text: str) -> str:
    """Translate a text of this file."""
    return QCoreApplication.translate("Dialogs", text)


class PreferencesDialog(QDialog):
    """Edits the preferences."""

    def __init__(self, parent: QWidget, preferences: Preferences) -> None:
        super().__init__(parent)
        self.setWindowTitle(self.tr("Preferences"))
        self._preferences = preferences
        self.theme = QComboBox()
        for theme, text in zip(THEMES, (self.tr("As the system"), self.tr("Light"), self.tr("Dark")), strict=True):
            self.theme.addItem(text, theme)
        self.theme.setCurrentIndex(self.theme.findData(preferences.theme))
        self.folder = QLineEdit(str(preferences.folder))
        self.folder.setMinimumWidth(260)
        choose = QPushButton(self.tr("Choose…"))
        choose.clicked.connect(self._choose)
        self.annotated = QCheckBox(self.tr("Paint the faces as they are shown"))
        self.annotated.setChecked(preferences.annotated)
        self.table = QCheckBox(self.tr("Write a table of the points (CSV) with each recording"))
        self.table.setChecked(preferences.table)
        self.trace = QCheckBox(self.tr("Write a trace, for canthus replay"))
        self.trace.setChecked(preferences.trace)
        row = QHBoxLayout()
        row.addWidget(self.folder)
        row.addWidget(choose)
        form = QFormLayout()
        form.addRow(self.tr("Colors"), self.theme)
        form.addRow(self.tr("Folder of recordings"), row)
        form.addRow(self.annotated)
        form.addRow(self.table)
        form.addRow(self.trace)
        for widget, name, tip in (
            (self.theme, self.tr("Colors"), self.tr("The area around the video stays dark")),
            (self.folder, self.tr("Folder of recordings"), self.tr("Where recordings and snapshots are saved")),
            (choose, self.tr("Choose the folder"), self.tr("Choose the folder")),
            (self.annotated, self.annotated.text(), self.tr("Off: recordings and snapshots are frames as they are")),
            (self.table, self.table.text(), self.tr("One row for each face of each frame")),
            (self.trace, self.trace.text(), self.tr("What the networks find, without images: for reports of errors")),
        ):
            widget.setAccessibleName(name)
            widget.setToolTip(tip)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addWidget(buttons)

    @property
    def preferences(self) -> Preferences:
        """What the dialog shows. A folder that does not exist is not used."""
        folder = Path(self.folder.text()).expanduser()
        theme: Theme = self.theme.currentData()
        return replace(
            self._preferences,
            theme=theme,
            folder=folder if folder.is_dir() else self._preferences.folder,
            annotated=self.annotated.isChecked(),
            table=self.table.isChecked(),
            trace=self.trace.isChecked(),
        )

    def _choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, self.tr("Folder of recordings"), self.folder.text())
        if folder:
            self.folder.setText(folder)


class AboutDialog(QDialog):
    """Shows the versions of canthus and of its libraries, and their licences."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(self.tr("About canthus"))
        self.text = QLabel(about_text())
        self.text.setTextFormat(Qt.TextFormat.RichText)
        self.text.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self.text.setAccessibleName(self.tr("Versions and licences"))
        self.text.setToolTip(self.tr("The text can be selected and copied"))
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        column.addWidget(self.text)
        column.addWidget(buttons)


def version_of(name: str) -> str:
    """Return the version of an installed package, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return tr("not installed")


def about_text() -> str:
    """Return the text of the dialog as HTML."""
    rows = [
        f"<tr><td>{name}&nbsp;&nbsp;</td><td>{version_of(name)}&nbsp;&nbsp;</td><td>{licence}</td></tr>"
        for name, licence in LIBRARIES
    ]
    return (
        f"<h2>canthus {version_of('canthus')}</h2>"
        f"<p>{tr('98 landmarks on every face, in real time. Licence: MIT.')}<br>"
        f"{tr('The included models were trained on data for non-commercial research; see their model cards.')}</p>"
        f"<p>Python {platform.python_version()}, Qt {qVersion()}, PyQt {PYQT_VERSION_STR}, {platform.system()}</p>"
        f"<table>{''.join(rows)}</table>"
    )
