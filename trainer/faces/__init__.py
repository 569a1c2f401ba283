"""Labelled faces: the point schemes of the data sets, and readers of their files."""
