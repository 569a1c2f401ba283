"""The commands that find points on faces, and `canthus doctor`: one file for each. canthus.runtime.cli runs them."""
