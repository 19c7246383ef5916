"""Files that are whole or not there, whatever stops the writing."""

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


@contextmanager
def replacing(file: str | Path) -> Iterator[Path]:
    """Give a path in the same folder to write to; it becomes `file` at the end.

    If the block raises, `file` stays as it was. A process that is killed in the block
    leaves `<file>.<eight hex digits>.part` behind.
    """
    part = Path(f"{file}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def write(file: str | Path, content: str | bytes) -> None:
    """Write all of it, or leave the file as it was."""
    with replacing(file) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_arrays(file: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays as one `.npz`, or leave the file as it was."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write(file, buffer.getvalue())
