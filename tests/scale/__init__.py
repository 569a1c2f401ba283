"""Runs over very many or very long files, with their memory and handles recorded: see `python -m scale --help`."""
