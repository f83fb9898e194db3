"""A file or folder in a store that pyarrow reaches by a URI: S3, Google's, Azure's, HDFS.

A `RemotePath` is used like a `Path`, as far as ledgers need it. An object exists completely, once its upload has ended,
or not at all. Writing waits while a store is unreachable; other errors of a store are raised as StorageError, in one
line. Credentials come from the environment, as for the store's own tools; those in a URI are used but never shown.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from raybench.errors import StorageError
from raybench.redaction import first_line, without_secrets

PATIENCE_SECONDS = 120.0  # how long a write waits for an unreachable store
_MOST_IN_MEMORY: Final = 64 * 2**20  # bytes of an object to read into memory; a larger one goes to a file
_CHUNK: Final = 8 * 2**20
# The kinds of store, with pyarrow's options beside the URI: to write a small object in one request, and to limit its
# own retries, which last 15 minutes for Google's.
SCHEMES: Final[dict[str, dict[str, str]]] = {
    "s3": {"allow_delayed_open": "true"},
    "gs": {"retry_limit_seconds": "30"},
    "gcs": {"retry_limit_seconds": "30"},
    "abfs": {},
    "abfss": {},
    "hdfs": {},
    "viewfs": {},
}
_OF_BUCKETS: Final = ("s3", "gs", "gcs")
_GOOGLE: Final = "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`"
_AZURE: Final = "`az login`, or AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET"
_CREDENTIALS: Final = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in ~/.aws, or the machine's role",
    "gs": _GOOGLE,
    "gcs": _GOOGLE,
    "abfs": _AZURE,
    "abfss": _AZURE,
}
# Permanent errors, as worded in the stores' answers.
_NO_BUCKET: Final = re.compile(r"no_?such_?bucket|bucket '[^']*' not found|container_?not_?found", re.IGNORECASE)
_ABOUT_REQUEST: Final = re.compile(r"^When .*?: (?=AWS Error)|\s*\(Request ID: [^)]*\)")
_UNKNOWN: Final = re.compile(
    r"invalid_?access_?key_?id|signature_?does_?not_?match|invalid_?client_?token_?id|expired_?token"
    r"|unrecognized_?client",
    re.IGNORECASE,
)
_REFUSED: Final = re.compile(
    r"access_?denied|permission.?denied|authorization_?failure|HTTP status 40[13]", re.IGNORECASE
)


class RemotePath:
    """A file or folder in a store. Folders are only common prefixes of names, so nothing creates them.

    `size` (bytes) and `modified` (by the store's own clock) are known for listed files, else None. Raises StorageError,
    and FileNotFoundError where a file to be read is missing.
    """

    def __init__(self, uri: SplitResult, store: FileSystem, root: str, relative: PurePosixPath) -> None:
        """`uri`: the store's root, credentials included; `root` (`bucket/`): its name within `store`."""
        self._uri, self._store, self._root, self._relative = uri, store, root, relative
        self.size: int | None = None
        self.modified: datetime | None = None

    @classmethod
    def parse(cls, text: str) -> RemotePath:
        """The path named by a URI. Raises StorageError for a URI that pyarrow rejects."""
        uri = urlsplit(text)
        if uri.scheme == "s3" and ":" in uri.netloc.rpartition("@")[2]:
            raise StorageError("s3://...: no bucket has a ':'; a '/' in a secret key is written %2F in a URI")
        if not uri.netloc and uri.scheme in _OF_BUCKETS:
            raise StorageError(f"{text}: no bucket is named; write {uri.scheme}://BUCKET/FOLDER")
        query = urlencode(SCHEMES[uri.scheme] | dict(parse_qsl(uri.query, keep_blank_values=True)), safe=":/")
        path = quote(unquote(uri.path.rstrip("/")))
        with _telling(without_secrets(text), uri.scheme):
            store, name = FileSystem.from_uri(uri._replace(path=path, query=query, fragment="").geturl())
        relative = PurePosixPath(unquote(path).lstrip("/"))
        root = name.removesuffix(str(relative)) if relative.parts else name.rstrip("/") + "/"
        return cls(uri._replace(path="", fragment=""), store, root, relative)

    def _at(self, relative: PurePosixPath) -> RemotePath:
        return RemotePath(self._uri, self._store, self._root, relative)

    def __truediv__(self, name: str) -> RemotePath:
        return self._at(self._relative / name)

    def with_name(self, name: str) -> RemotePath:
        return self._at(self._relative.with_name(name))

    def absolute(self) -> RemotePath:
        return self

    def relative_to(self, other: RemotePath) -> PurePosixPath:
        return self._relative.relative_to(other._relative)

    @property
    def parent(self) -> RemotePath:
        return self._at(self._relative.parent)

    @property
    def name(self) -> str:
        return self._relative.name or self._root.strip("/")

    @property
    def stem(self) -> str:
        return self._relative.stem

    @property
    def suffix(self) -> str:
        return self._relative.suffix

    @property
    def address(self) -> str:
        """The URI including its credentials: pass it on as an argument only."""
        path = "/" + quote(str(self._relative)) if self._relative.parts else ""
        return self._uri._replace(path=path).geturl()

    def __str__(self) -> str:
        user, at, host = self._uri.netloc.rpartition("@")
        shown = without_secrets(urlsplit(self.address)._replace(netloc=host).geturl())
        return shown.replace("://", f"://{user}@", 1) if at and ":" not in user else shown  # Azure's container

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.address == other.address

    def __lt__(self, other: RemotePath) -> bool:
        return self.address < other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __reduce__(self) -> tuple[Callable[[str], RemotePath], tuple[str]]:
        return RemotePath.parse, (self.address,)

    @property
    def _name(self) -> str:
        """The store's name for it."""
        return (self._root + str(self._relative) if self._relative.parts else self._root).rstrip("/") or "/"

    def _type(self) -> FileType:
        with self._telling():
            return self._store.get_file_info(self._name).type

    def exists(self) -> bool:
        return bool(self._type() != FileType.NotFound)

    def is_file(self) -> bool:
        return bool(self._type() == FileType.File)

    def is_dir(self) -> bool:
        return bool(self._type() == FileType.Directory)

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """The files (never folders) below this one whose names match, part by part."""
        parts = PurePosixPath(pattern).parts
        for file in self._files(recursive=len(parts) > 1):
            names = file.relative_to(self).parts
            if len(names) == len(parts) and all(map(fnmatchcase, names, parts)):
                yield file

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """The files at any depth whose last name matches."""
        return (file for file in self._files(recursive=True) if fnmatchcase(file.name, pattern))

    def _files(self, *, recursive: bool) -> list[RemotePath]:
        with self._telling():
            infos = self._store.get_file_info(FileSelector(self._name, recursive=recursive, allow_not_found=True))
        found = []
        for info in infos:
            if info.type == FileType.File:
                file = self._at(PurePosixPath(info.path.removeprefix(self._root)))
                file.size, file.modified = info.size, info.mtime
                found.append(file)
        return found

    def read_bytes(self) -> bytes:
        with self._telling(), self._store.open_input_stream(self._name, compression=None) as file:
            return bytes(file.read())

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    @contextmanager
    def readable(self) -> Iterator[Any]:
        """The whole content, downloaded, in a form that pyarrow's readers open: memory, or a temporary file."""
        content = None
        with self._telling(), self._store.open_input_file(self._name) as file:
            if file.size() <= _MOST_IN_MEMORY:
                content = file.read_buffer()
        if content is not None:
            yield pa.BufferReader(content)
            return
        with tempfile.NamedTemporaryFile(prefix="raybench-") as copy:
            with self._telling(), self._store.open_input_stream(self._name, compression=None) as file:
                while chunk := file.read(_CHUNK):
                    copy.write(chunk)
            copy.flush()
            yield copy.name

    def write_bytes(self, content: Any, patience: float | None = None) -> None:
        """Write the file, whole or not at all; durable when this returns.

        An unreachable store is waited for up to about `patience` seconds (default: PATIENCE_SECONDS).
        """

        def put() -> None:
            with self._telling(), self._store.open_output_stream(self._name, compression=None) as file:
                file.write(content)

        retrying = Retrying(
            stop=stop_after_delay(PATIENCE_SECONDS if patience is None else patience),
            wait=wait_random_exponential(multiplier=0.25, max=10),
            retry=retry_if_exception(lambda error: isinstance(error, StorageError) and error.passing),
            reraise=True,
        )
        retrying(put)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.write_bytes(text.encode(encoding))

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with self._telling():
                self._store.delete_file(self._name)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def replace(self, target: RemotePath) -> RemotePath:
        """Move the file. A store copies and then deletes: if interrupted, both exist."""
        with self._telling():
            self._store.move(self._name, target._name)
        return target

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a store has no folders to create."""

    @contextmanager
    def _telling(self) -> Iterator[None]:
        with _telling(self, self._uri.scheme):
            yield


@contextmanager
def _telling(place: object, scheme: str) -> Iterator[None]:
    """Turn pyarrow's errors into one line about `place`; a missing file stays a FileNotFoundError.

    The first error is not chained, because its text may contain what the line leaves out.
    """
    try:
        yield
    except FileNotFoundError as error:
        if not _NO_BUCKET.search(str(error)):
            raise FileNotFoundError(f"{place}: not there") from None
        raise StorageError(f"{place}: {_advice(error, scheme)}") from None
    except (OSError, pa.ArrowException) as error:
        advice = _advice(error, scheme)
        passing = not advice and not isinstance(error, pa.ArrowInvalid | pa.ArrowNotImplementedError)
        raise StorageError(f"{place}: {advice or _answer(error)}", passing) from None


def _advice(error: Exception, scheme: str) -> str:
    """The remedy for a refusal; empty for errors that may pass."""
    answer, credentials = str(error), _CREDENTIALS.get(scheme, "the credentials")
    if _NO_BUCKET.search(answer):
        advice = "there is no such bucket; make it first, or correct its name"
    elif _UNKNOWN.search(answer):
        advice = f"the store does not know these credentials; see {credentials}"
    elif _REFUSED.search(answer):
        advice = (
            f"the store does not permit it; the credentials need list, read, write and delete rights: see {credentials}"
        )
    else:
        return ""
    return f"{advice} ({_answer(error)})"


def _answer(error: Exception) -> str:
    """The store's message, without pyarrow's text about the request."""
    return _ABOUT_REQUEST.sub("", first_line(error))
