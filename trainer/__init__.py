"""Learns the networks: labelled faces in, checkpoints out, and measures what comes of it."""
