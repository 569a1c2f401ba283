"""The file of a person: the neutral face and the head, as `canthus calibrate` writes it."""

import dataclasses
import json
from pathlib import Path

from canthus.runtime.errors import InputError
from canthus.runtime.fields import FieldError, parse_value, read_values
from canthus.runtime.files import write_file
from canthus.runtime.measures import KnownPerson

FORMAT = "canthus person 1"
"""The value of the key `format`."""


def read_person(path: Path) -> KnownPerson:
    """Read the file of a person. Raises InputError if it is not one."""
    try:
        values = read_values(path)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise FieldError(f'not the file of a person (expected "format": "{FORMAT}")')
        person: KnownPerson = parse_value(KnownPerson, values, "person")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (FieldError, InputError) as error:
        raise InputError(f"{path}: {error}; make one with `canthus calibrate`") from error
    return person


def write_person(path: Path, person: KnownPerson) -> None:
    """Write the file of a person. Raises InputError if it cannot be written."""
    values = {"format": FORMAT, **dataclasses.asdict(person)}
    write_file(path, (json.dumps(values) + "\n").encode())
