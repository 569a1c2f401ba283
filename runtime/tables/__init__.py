"""Tables of points: one row for each face of each frame, in CSV, JSON Lines, Parquet, Feather and NPZ.

`TableSink` writes a table, `read_table` reads one. `schema.py` defines the columns; README.md describes them.
"""

from canthus.runtime.tables.read import Table, read_table
from canthus.runtime.tables.schema import FRAMES, IMAGES, SCHEMA_VERSION, Schema
from canthus.runtime.tables.sink import STDOUT, TABLE_SUFFIXES, Stopped, TableSink, check_table

__all__ = [
    "FRAMES",
    "IMAGES",
    "SCHEMA_VERSION",
    "STDOUT",
    "TABLE_SUFFIXES",
    "Schema",
    "Stopped",
    "Table",
    "TableSink",
    "check_table",
    "read_table",
]
