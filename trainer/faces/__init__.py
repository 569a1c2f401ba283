"""Labelled faces: the data sets' ways to mark one, and their files."""
