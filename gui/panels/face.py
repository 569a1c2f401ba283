"""The panel with the measures of one face: head, eyes, mouth and expressions over the last seconds."""

from PyQt6.QtCore import QTimer
from PyQt6.QtWidgets import QComboBox, QFormLayout, QLabel, QVBoxLayout, QWidget

from canthus.gui.panels.plots import Plot, Scale
from canthus.gui.stream import Result
from canthus.runtime.types import Faces

REFRESH_MS = 100
LARGEST = -1
"""In place of an id: the face that is largest in each frame."""


class FacePanel(QWidget):
    """Plots the measures of the face that the user has chosen. It needs faces with measures."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: int | None = None  # id of the face in the plots
        self._measured = False
        self.choice = QComboBox()
        self.choice.addItem(self.tr("Largest face"), LARGEST)
        self.choice.setToolTip(self.tr("Which face is plotted"))
        self.choice.setAccessibleName(self.tr("Face"))
        self.note = QLabel(self.tr("Waiting for a face…"))
        self.note.setWordWrap(True)
        self.head = Plot(
            self.tr("Head, degrees"),
            {"pose_yaw": self.tr("yaw"), "pose_pitch": self.tr("pitch"), "pose_roll": self.tr("roll")},
            Scale(-60, 60, "°"),
        )
        self.eyes = Plot(
            self.tr("Eyes, 1 = as in the neutral face"),
            {"eye_open_left": self.tr("left"), "eye_open_right": self.tr("right")},
            Scale(0, 1.5),
        )
        self.mouth = Plot(
            self.tr("Mouth"),
            {"mouth_open": self.tr("open"), "smile": self.tr("smile"), "mouth_width": self.tr("width")},
            Scale(0, 1.5),
        )
        self.brows = Plot(
            self.tr("Brows"),
            {
                "brow_raise_left": self.tr("left"),
                "brow_raise_right": self.tr("right"),
                "brow_frown": self.tr("frown"),
            },
            Scale(-1, 1),
        )
        self.plots = (self.head, self.eyes, self.mouth, self.brows)
        form = QFormLayout()
        form.addRow(self.tr("Face"), self.choice)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addWidget(self.note)
        for plot in self.plots:
            column.addWidget(plot, 1)
        self._timer = QTimer(self)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self.refresh)
        self._timer.start()

    def add(self, result: Result) -> None:
        """Add the measures of the chosen face, if it is in the result."""
        faces, measures = result.faces, result.faces.measures
        self._measured = measures is not None
        self._list(faces)
        place = self._place(faces)
        if place is None or measures is None:
            return
        if self._shown != int(faces.ids[place]):
            self._shown = int(faces.ids[place])
            for plot in self.plots:
                plot.clear()
        values = measures.as_dict(place)
        for plot in self.plots:
            plot.add(result.frame.seconds, values)
        self.note.setText(
            self.tr("Face {id}  ·  {blinks} blinks  ·  neutral face {calibrated} %").format(
                id=self._shown, blinks=round(values["blinks"]), calibrated=round(100 * values["calibrated"])
            )
        )

    def _list(self, faces: Faces) -> None:
        """Offer the faces of the last result. The chosen one stays in the list while it is away."""
        ids = sorted(faces.ids.tolist())
        listed = [self.choice.itemData(row) for row in range(1, self.choice.count())]
        chosen = self.choice.currentData()
        wanted = sorted({*ids, *([] if chosen in (None, LARGEST) else [chosen])})
        if listed == wanted:
            return
        self.choice.blockSignals(True)
        for row in range(self.choice.count() - 1, 0, -1):
            self.choice.removeItem(row)
        for face_id in wanted:
            self.choice.addItem(self.tr("Face {id}").format(id=face_id), face_id)
        self.choice.setCurrentIndex(max(self.choice.findData(chosen), 0))
        self.choice.blockSignals(False)

    def _place(self, faces: Faces) -> int | None:
        """Return the index of the chosen face; None if it is not there."""
        if not len(faces):
            return None
        chosen = self.choice.currentData()
        if chosen in (None, LARGEST):
            boxes = faces.boxes
            return int((boxes[:, 3] - boxes[:, 1]).argmax())
        found = (faces.ids == chosen).nonzero()[0]
        return int(found[0]) if len(found) else None

    def refresh(self) -> None:
        """Repaint the plots with the values so far."""
        if not self.isVisible():
            return
        if not self._measured:
            self.note.setText(self.tr("Waiting for a face…"))
        for plot in self.plots:
            plot.update()
