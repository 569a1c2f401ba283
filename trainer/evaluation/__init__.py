"""Measure the accuracy, stability and speed of models on labelled faces and on video clips."""
