"""Helpers that several tests share: made-up data and stand-ins for hardware, networks and detectors."""
