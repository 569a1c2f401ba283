"""Models measured on labelled faces and on clips."""
