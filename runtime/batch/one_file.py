"""One video whose source or outputs are behind addresses of fsspec."""

import argparse
import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from canthus.runtime.addresses import without_password
from canthus.runtime.batch import storage
from canthus.runtime.batch.listing import is_file
from canthus.runtime.errors import InputError, UsageError
from canthus.runtime.options import Outputs

_log = logging.getLogger(__name__)

KINDS = ("overlay", "table", "trace")
"""The outputs: fields of `Outputs`."""


def is_one_file(args: argparse.Namespace, suffixes: Sequence[str]) -> bool:
    """Whether a command line is for one file with outputs of its own, though an address makes `is_batch` true.

    suffixes: of the outputs that are files. Others are folders, into which a batch writes.
    """
    outputs = [str(output) for output in (args.output, args.table, args.record_trace) if output]
    workers = (args.jobs, args.threads, args.shard, args.ray)
    if len(args.sources) > 1 or any(option is not None for option in workers):
        return False
    if not all(output == "-" or PurePosixPath(output).suffix.lower() in suffixes for output in outputs):
        return False
    return is_file(args.sources[0])


def remote_outputs(outputs: Outputs) -> dict[str, str]:
    """Return the outputs that are addresses of fsspec, by their kinds."""
    addresses = {kind: str(getattr(outputs, kind) or "") for kind in KINDS}
    return {kind: address for kind, address in addresses.items() if storage.is_remote(address)}


@contextlib.contextmanager
def local_files(source: str, outputs: Outputs) -> Iterator[tuple[Path, Outputs]]:
    """Yield a local path of the source, and the outputs with local paths.

    Remote outputs are copied to their addresses after the block, and not after an error or Ctrl-C.

    Raises:
        InputError: If a remote file cannot be read or written, or an output exists and is not to be replaced.
    """
    remote = remote_outputs(outputs)
    for address in remote.values():
        if address == source:
            raise UsageError(f"{address}: is the source; choose another name for the output")
        if list(remote.values()).count(address) > 1:
            raise UsageError(f"{address}: is given for two outputs; choose another name for one")
        if not outputs.overwrite and storage.size(address) is not None:
            raise InputError(f"{address}: exists already; use --overwrite to replace it")
        storage.make_folder(storage.parent(address))
    with contextlib.ExitStack() as stack:
        paths = {kind: stack.enter_context(storage.staged(address, shown=True)) for kind, address in remote.items()}
        path = stack.enter_context(storage.local_copy(source, shown=True))
        try:
            yield path, _with_paths(outputs, paths)
        except KeyboardInterrupt:
            if remote:
                names = " and ".join(without_password(address) for address in remote.values())
                _log.warning("stopped; %s: not written, as only complete files are copied to an address", names)
            raise


def _with_paths(outputs: Outputs, paths: Mapping[str, Path]) -> Outputs:
    overlay, table, trace = (paths.get(kind, getattr(outputs, kind)) for kind in KINDS)
    return replace(outputs, overlay=overlay, table=table, trace=trace)
