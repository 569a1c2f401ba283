"""The panel that chooses the model and how faces are tracked. Each change takes effect while the video goes on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from PyQt6.QtCore import Qt, QTimer, pyqtSignal
from PyQt6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from canthus.gui.finder import FinderState, Tracking
from canthus.gui.panels.engine import EngineBuilder

OTHER = "…"
"""In place of a model: the user chooses a file."""

QUIET_MS = 150
"""A slider that is dragged changes the tracking this long after its last movement."""


class TrackingPanel(QWidget):
    """Controls of a `Tracking`. `changed` is emitted with each new one; `calibrate` by a button."""

    changed = pyqtSignal(Tracking)
    calibrate = pyqtSignal()

    def __init__(self, tracking: Tracking, models: list[str]) -> None:
        """`models` are the names of the included ones."""
        super().__init__()
        self._tracking = tracking
        self.state = QLabel()
        self.state.setWordWrap(True)
        self.model, self.precision, self.device = QComboBox(), QComboBox(), QComboBox()
        self.max_faces, self.interval = QSpinBox(), QDoubleSpinBox()
        self.score = QSlider(Qt.Orientation.Horizontal)
        self.score_text = QLabel()
        self.smoothing, self.measures = QCheckBox(self.tr("Smooth the points")), QCheckBox(self.tr("Measure the faces"))
        self.neutral = QPushButton(self.tr("Measure neutral faces again"))
        self.person = QLabel()
        self.engine = EngineBuilder()
        self._fill(models)
        self._arrange()
        self._quiet = QTimer(self)
        self._quiet.setSingleShot(True)
        self._quiet.setInterval(QUIET_MS)
        self._quiet.timeout.connect(self._emit)
        self.show_tracking(tracking)
        self._connect()

    @property
    def tracking(self) -> Tracking:
        """What the controls select."""
        return self._tracking

    def show_tracking(self, tracking: Tracking) -> None:
        """Set the controls, without a signal."""
        self._tracking = tracking
        widgets = (self.model, self.precision, self.device, self.max_faces, self.interval, self.score)
        switches = (self.smoothing, self.measures)
        for widget in (*widgets, *switches):
            widget.blockSignals(True)
        name = None if tracking.model is None else str(tracking.model)
        if self.model.findData(name) < 0 and name is not None:
            self.model.insertItem(self.model.count() - 1, Path(name).name, name)
        self.model.setCurrentIndex(self.model.findData(name))
        self.precision.setCurrentIndex(self.precision.findData(tracking.precision))
        self.device.setCurrentIndex(self.device.findData(tracking.gpu))
        self.max_faces.setValue(tracking.max_faces)
        self.interval.setValue(tracking.detection_interval)
        self.score.setValue(round(100 * tracking.min_score))
        self.score_text.setText(f"{tracking.min_score:.2f}")
        self.smoothing.setChecked(tracking.smoothing)
        self.measures.setChecked(tracking.measures)
        self.neutral.setEnabled(tracking.measures)
        name = self.tr("measured at the start") if tracking.person is None else tracking.person.name
        self.person.setText(self.tr("Neutral face: {name}").format(name=name))
        self.engine.model = tracking.model
        for widget in (*widgets, *switches):
            widget.blockSignals(False)

    def show_state(self, state: FinderState) -> None:
        """Show what the finder does."""
        if state.error:
            text = self.tr("Not changed: {reason}").format(reason=state.error)
        elif state.opening:
            text = self.tr("Opening the model…")
        else:
            text = self.tr("In use: {backend}").format(backend=state.backend or "-")
        self.state.setText(text)

    def _fill(self, models: list[str]) -> None:
        self.model.addItem(self.tr("Automatic"), None)
        for name in models:
            self.model.addItem(name, name)
        self.model.addItem(self.tr("Other file…"), OTHER)
        for text, data in ((self.tr("Automatic"), None), (self.tr("float"), "float"), (self.tr("8 bits"), "int8")):
            self.precision.addItem(text, data)
        self.device.addItem(self.tr("GPU if there is one"), True)
        self.device.addItem(self.tr("CPU"), False)
        self.max_faces.setRange(1, 64)
        self.interval.setRange(0.05, 5.0)
        self.interval.setSingleStep(0.05)
        self.interval.setSuffix(self.tr(" s"))
        self.score.setRange(0, 95)

    def _arrange(self) -> None:
        rows: tuple[tuple[str, QWidget, str], ...] = (
            (
                self.tr("Model"),
                self.model,
                self.tr("Which network; automatic: accurate on a GPU, else fast"),
            ),
            (self.tr("Precision"), self.precision, self.tr("What the network computes in")),
            (self.tr("Device"), self.device, self.tr("What the network runs on")),
            (self.tr("Maximum faces"), self.max_faces, self.tr("How many faces are tracked at most")),
            (self.tr("Detector interval"), self.interval, self.tr("How often new faces are searched")),
            (self.tr("Minimum score"), self.score, self.tr("Faces with a lower score are not shown")),
        )
        networks, faces = QFormLayout(), QFormLayout()
        for index, (text, widget, tip) in enumerate(rows):
            widget.setToolTip(tip)
            widget.setAccessibleName(text)
            (networks if index < 3 else faces).addRow(text, self._with_value() if widget is self.score else widget)
        self.smoothing.setToolTip(self.tr("Remove the jitter of still faces"))
        self.measures.setToolTip(self.tr("Compute head pose, gaze, eyes, mouth and expressions"))
        self.neutral.setToolTip(self.tr("People should look calmly into the camera for two seconds"))
        self.person.setToolTip(self.tr("Whose neutral face expressions are relative to: see File, Person"))
        for widget in (self.smoothing, self.measures, self.person, self.neutral):
            faces.addRow(widget)
        column = QVBoxLayout(self)
        for title, content in ((self.tr("Model"), networks), (self.tr("Faces"), faces)):
            box = QGroupBox(title)
            box.setLayout(content)
            column.addWidget(box)
        networks.addRow(self.state)
        box = QGroupBox(self.tr("TensorRT engine"))
        QVBoxLayout(box).addWidget(self.engine)
        column.addWidget(box)
        column.addStretch(1)

    def _with_value(self) -> QHBoxLayout:
        """Return the slider with its value beside it."""
        row = QHBoxLayout()
        row.addWidget(self.score)
        row.addWidget(self.score_text)
        return row

    def _connect(self) -> None:
        self.model.activated.connect(self._choose_model)
        self.precision.activated.connect(lambda: self._set(precision=self.precision.currentData()))
        self.device.activated.connect(lambda: self._set(gpu=self.device.currentData()))
        self.max_faces.valueChanged.connect(lambda value: self._set(max_faces=value))
        self.interval.valueChanged.connect(lambda value: self._set(detection_interval=round(value, 2)))
        self.score.valueChanged.connect(lambda value: self._set(min_score=value / 100))
        self.smoothing.toggled.connect(lambda on: self._set(smoothing=on))
        self.measures.toggled.connect(lambda on: self._set(measures=on))
        self.neutral.clicked.connect(lambda: self.calibrate.emit())

    def _choose_model(self) -> None:
        model = self.model.currentData()
        if model == OTHER:
            filters = self.tr("Models (*.onnx *.engine)")
            model, _ = QFileDialog.getOpenFileName(self, self.tr("Open a model"), "", filters)
            if not model:
                self.show_tracking(self._tracking)
                return
        self._set(model=model)

    def _set(self, **changes: Any) -> None:
        self.show_tracking(replace(self._tracking, **changes))
        self._quiet.start()

    def _emit(self) -> None:
        self.changed.emit(self._tracking)
