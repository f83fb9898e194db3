"""Ledger columns as NumPy arrays: texts as codes into a list of names, numbers as floats with nan for null. Also the
hardware and versions in an `environment`.

Two legs have the same hardware when `hardware_of` is equal. It leaves out node names, serial numbers, drivers and
software versions: a fleet of equal machines is one hardware, and an upgrade is a caveat.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raybench.statistics.inference import Floats, Integers


@dataclass(frozen=True)
class Coded:
    """A column of texts: `names[codes]`, with code -1 where there is none."""

    codes: Integers
    names: tuple[str, ...]

    def take(self, rows: np.ndarray) -> Coded:
        """The texts of these rows."""
        return Coded(self.codes[rows], self.names)

    def __getitem__(self, row: int | np.integer[Any]) -> str:
        code = self.codes[row]
        return self.names[code] if code >= 0 else ""

    def map(self, function: Callable[[str], str]) -> Coded:
        """Another column, with `function` called once for each distinct text; a missing text is passed as ''."""
        made = [function(name) for name in (*self.names, "")]
        names = tuple(sorted(set(made)))
        position = {name: code for code, name in enumerate(names)}
        return Coded(np.array([position[name] for name in made], dtype=np.int64)[self.codes], names)


def text_array(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(len(table), pa.string()).dictionary_encode()
    column = table[name].combine_chunks()
    if pa.types.is_list(column.type):
        column = pc.binary_join(column, "\n")
    return column.dictionary_encode()


def number_array(table: pa.Table, name: str) -> Floats:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    column = table[name]
    if pa.types.is_timestamp(column.type):  # to seconds since the epoch
        return np.asarray(column.cast(pa.int64()).cast(pa.float64()).to_numpy(), dtype=np.float64) / 1e6
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def coded(chunks: Iterable[pa.DictionaryArray], *, ordered: bool) -> Coded:
    column = pa.chunked_array(list(chunks)).unify_dictionaries()
    names = column.chunk(0).dictionary
    codes = np.concatenate(
        [
            np.asarray(pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
            for chunk in column.chunks
        ]
    )
    if ordered:
        order = pc.sort_indices(names).to_numpy()
        rank = np.empty(len(order) + 1, dtype=np.int64)
        rank[order], rank[-1] = np.arange(len(order)), -1
        codes, names = rank[codes], names.take(order)
    return Coded(codes, tuple(names.to_pylist()))


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object as a dict; an empty dict for anything else."""
    try:
        value = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def parse_array(text: str) -> list[Any]:
    """A JSON array as a list; an empty list for anything else."""
    try:
        value = json.loads(text) if text else []
    except json.JSONDecodeError:
        return []
    return value if isinstance(value, list) else []


def dense(*codes: Integers) -> Integers:
    """One code for each distinct combination, from 0, in the order of the combinations."""
    combined = np.zeros(len(codes[0]), dtype=np.int64)
    for column in codes:
        combined = combined * (int(column.max(initial=0)) + 2) + column + 1
        combined = np.unique(combined, return_inverse=True)[1]
    return combined


def rows_by_group(group: Integers) -> list[Integers]:
    """The rows of each group, ascending, by ascending group; one pass whatever the number of groups."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(group) else []


def code_of(column: Coded, name: str) -> int:
    """The code of a name; -2, which no row has, where the column lacks it."""
    return column.names.index(name) if name in column.names else -2


# The keys under which an environment describes the machine; raybench's own comes first.
_PLACES: Final = (
    "hardware",
    "accelerator",
    "accelerators",
    "gpu",
    "gpus",
    "gpu_name",
    "gpu_names",
    "gpu_count",
    "num_gpus",
    "device",
    "device_name",
    "cpu",
    "cpu_model",
    "cpu_cores",
    "cpu_count",
    "cpus",
    "cores",
)
# Keys within them that differ between equal machines ...
_IDENTITIES: Final = (
    "uuid", "serial", "bus", "node", "host", "driver", "index",
    # ... and readings, which change from leg to leg.
    "temperature", "clock", "mhz", "freq", "load", "percent", "util", "used", "free", "available", "power",
)  # fmt: skip


def hardware_of(environment: Mapping[str, Any]) -> str:
    """One line such as `8 x NVIDIA H100, AMD EPYC 9654`; empty where the environment does not say."""
    places = ("hardware",) if environment.get("hardware") else _PLACES
    words = [word for place in places if place in environment for word in _words(environment[place], place)]
    return ", ".join(dict.fromkeys(words))


def _words(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key in sorted(value):
            if not any(identity in str(key).lower() for identity in _IDENTITIES):
                yield from _words(value[key], str(key))
    elif isinstance(value, list):
        texts = [", ".join(_words(item, name)) for item in value]
        for text in dict.fromkeys(texts):
            yield text if texts.count(text) == 1 else f"{texts.count(text)} x {text}"
    elif isinstance(value, bool) or value in (None, ""):
        return
    elif isinstance(value, float):
        return  # a reading, such as a frequency, not a property of the machine
    elif isinstance(value, int):
        yield f"{value} {name.replace('_', ' ').removesuffix(' count').removeprefix('num ')}"
    else:
        yield str(value)


def versions_of(environment: Mapping[str, Any]) -> dict[str, str]:
    """The software versions in an environment, by name (raybench itself writes `packages`)."""
    found: dict[str, str] = {}
    for place in ("packages", "versions"):
        if isinstance(environment.get(place), Mapping):
            found |= {str(name): str(version) for name, version in environment[place].items() if version is not None}
    found |= {name: str(environment[name])[:12] for name in _LIBRARIES if isinstance(environment.get(name), str | int)}
    return found


_LIBRARIES: Final = (
    "torch",
    "deepspeed",
    "ray",
    "python",
    "cuda",
    "cudnn",
    "driver",
    "nccl",
    "torchvision",
    "timm",
    "raybench",
    "git_commit",
    "torch_version",
    "deepspeed_version",
    "ray_version",
    "python_version",
    "cuda_version",
    "driver_version",
)
