"""Process many files: find them, skip the finished ones, run the others in worker processes or on a Ray cluster."""
