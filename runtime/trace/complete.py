"""Make a trace readable whose recording was killed."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft
from canthus.runtime.trace.format import COLUMNS, HEADER, MAX_ARRAY_BYTES, STATE

_ENTRY = struct.Struct("<4s5H3I2H")
"""The header before each file of a ZIP archive (APPNOTE.TXT of PKWARE, 4.3.7)."""


def complete_trace(path: Path) -> bool:
    """Write a trace again, with the frames that are whole in it. Return whether there are any.

    A killed recording has no directory at the end of its archive, and its last chunk may be cut off.

    Raises InputError if the file cannot be read or written.
    """
    try:
        with path.open("rb") as file:
            parts = dict(_parts(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    numbers = {name.partition("/")[0] for name in parts if "/" in name}
    whole = [number for number in sorted(numbers) if all(f"{number}/{name}.npy" in parts for name in COLUMNS)]
    if HEADER not in parts or not whole:
        return False
    names = [HEADER, STATE, *(f"{number}/{name}.npy" for number in whole for name in COLUMNS)]
    with Draft(path) as draft, zipfile.ZipFile(draft.file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            if name in parts:
                archive.writestr(name, parts[name])
    return True


def _parts(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file of a ZIP archive, up to the first one that is not whole."""
    while len(head := file.read(_ENTRY.size)) == _ENTRY.size:
        signature, _, _, method, _, _, checksum, packed, size, name_length, extra_length = _ENTRY.unpack(head)
        name, _ = file.read(name_length).decode(errors="replace"), file.read(extra_length)
        content = file.read(packed)
        if signature != b"PK\x03\x04" or not 0 < size <= MAX_ARRAY_BYTES or len(content) < packed:
            return
        try:
            if method == zipfile.ZIP_DEFLATED:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size)
        except zlib.error:
            return
        if zlib.crc32(content) != checksum:
            return
        yield name, content
