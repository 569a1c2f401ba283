"""The commands of engines: `canthus export` and `canthus engine`."""
