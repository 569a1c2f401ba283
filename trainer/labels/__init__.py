"""Make labels with models: pseudo-labels, relabelled packs, and profile faces from frontal ones."""
