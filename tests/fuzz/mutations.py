"""Change the content of a file at random. The same generator gives the same changes."""

import contextlib
import copy
import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Mutate = Callable[[bytes, Sequence[bytes], np.random.Generator], bytes]
"""A function of the content of a file, the contents of all seed files, and a generator."""

HEADER = 512
"""Half of the changes of bytes are made in this many bytes at the start."""

NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    32766,
    32767,
    32768,
    65535,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)

WORDS = (
    "", "0", "-1", "-0", "1", "2", "5", "nan", "inf", "-inf", "1e39", "1e400", "1e-400", "1e6", "9" * 401, "9" * 5000,
    "1.5", "1,5", "0x10", "1_000", "٣", "true", "null", "{}", "[]", "[[1]]", '"', "'", ",", "\\", "\0", "\x1f", "\x85",
    "\u2028", "\ufeff", "\ud800", "é", "../../x", "/", "x" * 300, "x" * 200_000, "# x", "\r", "\n\n",
    "[" * 2000 + "]" * 2000,
)  # fmt: skip

DEEP = "@deep@"
"""Stands for a value that is nested too deeply for `json.dumps`."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 1.5, 1e39, 1e300, float("nan"), float("inf"), 2**31, 2**63, 10**400, "", "a\0b",
    "\ud800", "x" * 5000, "../../x", "1", [], {}, [[1]], [1, 2], [0, 0, 0, 0], [None], {"a": 1}, {"": {}}, DEEP,
)  # fmt: skip


def mutate_bytes(content: bytes, seeds: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Change a few bytes, numbers or parts of a binary file."""
    data = bytearray(content)
    for _ in range(1 + min(rng.geometric(0.45), 8)):
        _change_bytes(data, seeds, rng)
    return bytes(data)


def _change_bytes(data: bytearray, seeds: Sequence[bytes], rng: np.random.Generator) -> None:
    at = int(rng.integers(0, max(min(len(data), HEADER) if rng.random() < 0.5 else len(data), 1)))
    size = min(int(2 ** rng.uniform(0, 12)), len(data))
    part = data[at : at + size]
    match int(rng.integers(0, 12)):
        case 0 | 1:
            for place in range(at, min(at + int(rng.integers(1, 4)), len(data))):
                data[place] ^= 1 << int(rng.integers(0, 8))
        case 2:
            data[at : at + 1] = bytes([int(rng.integers(0, 256))])
        case 3 | 4 | 5:
            width = int(rng.choice([1, 2, 4, 8]))
            number = int(rng.choice(len(NUMBERS)))
            order = "little" if rng.random() < 0.5 else "big"
            data[at : at + width] = (NUMBERS[number] % 256**width).to_bytes(width, order)
        case 6:
            del data[at : at + size]
        case 7:
            data[at:at] = part * int(rng.integers(1, 4))
        case 8:
            data[at:at] = rng.bytes(min(size, 64))
        case 9:
            del data[at:]
        case 10:
            data[at : at + size] = bytes(len(part))
        case 11:
            other = seeds[int(rng.integers(0, len(seeds)))]
            start = int(rng.integers(0, max(len(other), 1)))
            data[at : at + size] = other[start : start + size]


def mutate_text(content: bytes, seeds: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Change words and lines of a text file, and sometimes its bytes."""
    text = content.decode(errors="surrogateescape")
    for _ in range(min(rng.geometric(0.5), 6)):
        text = _change_text(text, rng)
    data = text.encode(errors="surrogatepass")
    return mutate_bytes(data, seeds, rng) if rng.random() < 0.15 else data


def _change_text(text: str, rng: np.random.Generator) -> str:
    pattern = r"[^\s,\[\]{}:=]+" if rng.random() < 0.7 else r"\s|[,\[\]{}:=\"]"
    tokens = [found.span() for found in re.finditer(pattern, text)]
    lines = text.splitlines(keepends=True)
    match int(rng.integers(0, 8)):
        case 0 | 1 | 2 | 3 if tokens:
            start, end = tokens[int(rng.integers(0, len(tokens)))]
            return text[:start] + WORDS[int(rng.integers(0, len(WORDS)))] + text[end:]
        case 4 if tokens:
            start, end = tokens[int(rng.integers(0, len(tokens)))]
            return text[:start] + text[end:]
        case 5 if lines:
            del lines[int(rng.integers(0, len(lines)))]
        case 6 if lines:
            lines.insert(int(rng.integers(0, len(lines))), lines[int(rng.integers(0, len(lines)))])
        case _:
            return text[: int(rng.integers(0, len(text) + 1))]
    return "".join(lines)


def mutate_json(content: bytes, seeds: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Change values and names of a JSON file, and sometimes its text."""
    root = {"root": json.loads(content)}
    for _ in range(min(rng.geometric(0.5), 6)):
        _change_value(root, rng)
    depth = int(rng.choice([50, 990, 20_000]))
    deep = ("[" * depth + "]" * depth) if rng.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth
    data = json.dumps(root["root"]).replace(f'"{DEEP}"', deep).encode()
    return mutate_text(data, seeds, rng) if rng.random() < 0.2 else data


def _change_value(root: dict[str, Any], rng: np.random.Generator) -> None:
    holder, key = _choose_place(root, rng)
    if isinstance(holder, dict) and holder is not root and rng.random() < 0.25:
        value = holder.pop(key)
        if rng.random() < 0.5:
            holder[f"{key}{WORDS[int(rng.integers(0, len(WORDS)))]}"] = value
    elif isinstance(holder, list) and rng.random() < 0.25:
        holder[key : key + 1] = [holder[key]] * int(rng.choice([0, 2, 3]))
    else:
        holder[key] = copy.deepcopy(VALUES[int(rng.integers(0, len(VALUES)))])


def _choose_place(root: dict[str, Any], rng: np.random.Generator) -> tuple[Any, Any]:
    """Walk down from the root, and return a dict or list with a key or an index of it."""
    holder: Any = root
    key: Any = "root"
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.85:
        holder = holder[key]
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = keys[int(rng.integers(0, len(keys)))]
    return holder, key


EXTREMES = (0.0, -1.0, 1.0, 1e9, -1e9, 3e38, 1e308, float("nan"), float("inf"), -float("inf"), 255, 2**31, -(2**63))


def mutate_any(content: bytes, seeds: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Change a file as its content requires: as a ZIP archive, JSON, text or bytes."""
    if content.startswith(b"PK"):
        return mutate_zip(content, seeds, rng) if rng.random() < 0.8 else mutate_bytes(content, seeds, rng)
    if content.startswith(b"{") and content.count(b"\n{") == 0:
        return mutate_json(content, seeds, rng)
    try:
        content.decode()
    except UnicodeDecodeError:
        return mutate_bytes(content, seeds, rng)
    return mutate_text(content, seeds, rng)


def read_zip(content: bytes) -> dict[str, bytes]:
    """Return the members of a ZIP archive by their names."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(members: dict[str, bytes]) -> bytes:
    """Return a ZIP archive; the same members give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def mutate_zip(content: bytes, seeds: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Change members of a ZIP archive, whose checksums are right again afterwards."""
    members = read_zip(content)
    for _ in range(min(rng.geometric(0.5), 4)):
        name = list(members)[int(rng.integers(0, len(members)))]
        match int(rng.integers(0, 10)):
            case 0 if len(members) > 1:
                del members[name]
            case 1:
                members[f"{name}{WORDS[int(rng.integers(0, len(WORDS)))]}"[:1000].replace("\ud800", "?")] = b"x"
            case 2 | 3 | 4 | 5 | 6 if name.endswith(".npy"):
                members[name] = _mutate_array(members[name], rng)
            case _:
                is_json = name.endswith(".json") and rng.random() < 0.9
                with contextlib.suppress(ValueError, RecursionError):  # a change before has damaged it
                    members[name] = (mutate_json if is_json else mutate_bytes)(members[name], seeds, rng)
    return write_zip(members)


def _mutate_array(content: bytes, rng: np.random.Generator) -> bytes:
    """Change numbers, the type or the shape of an array of NumPy. It stays a valid one."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception:  # noqa: BLE001 - a change before has damaged it
        return content
    match int(rng.integers(0, 6)):
        case 0 if array.ndim:
            array = np.concatenate([array, array]) if rng.random() < 0.5 else array[:-1]
        case 1 if array.dtype.kind in "fiu":
            array = array.astype(rng.choice(["f4", "f8", "i4", "i8", "u1", "c16", "U3", "M8[s]", "?", ">f4"]))
        case 2:
            array = array.reshape(-1) if rng.random() < 0.5 else array[None]
        case _ if array.size and array.dtype.kind in "fiu":
            array = array.copy()
            count = 1 if rng.random() < 0.5 else array.size
            value = EXTREMES[int(rng.integers(0, len(EXTREMES)))]
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                array.reshape(-1)[rng.integers(0, array.size, count)] = np.array(value).astype(array.dtype)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
