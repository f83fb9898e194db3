"""Where results are: a path on this machine, or a URI (`s3://bucket/prefix`); and what ledgers need from either.

A path on this machine stays a `Path`; a URI becomes a `RemotePath`, which is used in the same way. Its module, and with
it pyarrow, is imported only for a URI.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from raybench.errors import StorageError, UserError
from raybench.redaction import without_secrets

if TYPE_CHECKING:
    from raybench.stores.remotepath import RemotePath

AnyPath: TypeAlias = "Path | RemotePath"
_SCHEME: Final = re.compile(r"([A-Za-z][\w+.-]*)://")
_VARIABLES: Final = ("AWS_", "GOOGLE_", "AZURE_")  # prefixes of the variables with a store's credentials


def to_path(place: str | AnyPath) -> AnyPath:
    """The folder or file that a user names, by a path on this machine or by a URI.

    Raises UserError for an unknown kind of URI, and for one that pyarrow rejects.
    """
    if not isinstance(place, str):
        return place
    found = _SCHEME.match(place)
    if found is None:
        return Path(place)
    scheme = found[1].lower()
    if scheme == "file":
        uri = urlsplit(place)
        if uri.netloc not in ("", "localhost") or not uri.path:
            raise UserError(f"{place}: a file's URI has three slashes, as in file:///data/results")
        return Path(unquote(uri.path))
    from raybench.stores.remotepath import SCHEMES, RemotePath

    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in ("file", *SCHEMES))
        raise UserError(f"{without_secrets(place)}: {scheme}:// is no kind of store; known: {known}, or a plain path")
    return RemotePath.parse(place)


def address(path: AnyPath) -> str:
    """The inverse of `to_path`, including a URI's credentials: pass it on as an argument only."""
    return str(path) if isinstance(path, Path) else path.address


def store_variables(path: AnyPath) -> dict[str, str]:
    """This process's variables with the store's credentials: pass them on as an argument only."""
    if isinstance(path, Path):
        return {}
    return {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}


def hidden_folder(folder: AnyPath) -> Path:
    """A folder on this machine for the temporary files of a ledger's running sweep; always the same one."""
    if isinstance(folder, Path):
        return folder.parent / f".ray-{folder.name}"
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"raybench-{os.getuid()}-{folder.name}-{digest}"


def files_below(folder: AnyPath, pattern: str) -> list[tuple[tuple[str, ...], AnyPath]]:
    """(names of its folders, the file) for every file at any depth whose last name matches, in order."""
    root: Any = folder
    return [(file.relative_to(root).parts, file) for file in sorted(root.rglob(pattern))]


@contextmanager
def readable(path: AnyPath) -> Iterator[Any]:
    """A form that pyarrow's readers open: the path itself on this machine, else the downloaded content."""
    if isinstance(path, Path):
        yield path
        return
    with path.readable() as content:
        yield content


def write_whole(path: AnyPath, text: str) -> None:
    """Write a text file, whole or not at all."""
    if not isinstance(path, Path):
        path.write_text(text)
        return
    aside = path.with_name(f".{path.name}.writing")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def copy_folder(folder: AnyPath, into: Path) -> None:
    """Copy every file below a folder into a new one on this machine."""
    if isinstance(folder, Path):
        shutil.copytree(folder, into)
        return
    for file in folder.rglob("*"):
        target = into / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())


def write_problem(folder: AnyPath) -> str:
    """Why nothing can be written below a folder, which need not exist yet; empty where it can. Leaves no files."""
    probe = folder / f".raybench-{uuid.uuid4().hex}"
    try:
        if not isinstance(probe, Path):
            probe.write_bytes(b"", patience=0)
            probe.unlink(missing_ok=True)
            return ""
        above = probe.absolute().parents
        blocked = next((path for path in above if path.exists() and not path.is_dir()), None)
        if blocked is not None:
            return f"{folder}: {blocked} is a file"
        existing = next(path for path in above if path.is_dir())
        with tempfile.TemporaryDirectory(dir=existing, prefix=".raybench-") as inner:
            path = Path(inner) / "file"
            with path.open("w") as file:
                file.write("x")
                file.flush()
                os.fsync(file.fileno())
            path.rename(path.with_name("renamed"))
    except StorageError as error:
        return str(error).replace(str(probe), str(folder), 1)
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror or error}"
    return ""
