"""The nodes of a cluster as raybench counts them: what each has, what is free, what could still come. No ray here.

Amounts are Ray's, by the names of Ray's resources; a label of a node counts as an amount of one. A node that trains
declares one `bench_slot`, which a trial takes whole, so that trials do not disturb each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from raybench.text import counted

Amounts = Mapping[str, float]
Kind = tuple[int, int, str]  # GPUs, CPUs, accelerator: nodes of one kind are taken to be twins

SLOT: Final = "bench_slot"
ACCELERATOR: Final = "accelerator_type:"  # Ray gives a node with an A100 the resource accelerator_type:A100
HEAD: Final = "node:__internal_head__"  # a resource that the head alone has
LABEL: Final = "label:"  # before a node's label, as label:zone=a
_ENOUGH: Final = 1e-6  # amounts are sums of multiples of 0.0001


@dataclass(frozen=True)
class Node:
    """A living node. Its id is Ray's, a new one each time that it joins; its name is what people call it."""

    node_id: str
    name: str
    total: Amounts
    free: Amounts  # as Ray saw it when this was read; what is wholly taken may be left out


@dataclass(frozen=True)
class NodeType:
    """A type of node that the autoscaler starts, `most` of them at once."""

    name: str
    resources: Amounts
    most: int


@dataclass(frozen=True)
class Autoscaler:
    """What may be started: `most` nodes of all types together, the head not counted."""

    types: tuple[NodeType, ...]
    most: int

    def to_come(self, living: Iterable[Amounts]) -> list[Amounts]:
        """What each node has that could be started beside the living ones."""
        workers = [node for node in living if HEAD not in node]
        room = max(0, self.most - len(workers))
        coming: list[Amounts] = []
        for type_ in self.types:
            alive = sum(_is_of(type_, node) for node in workers)
            coming += [type_.resources] * max(0, type_.most - alive)
        return coming[:room]


def _is_of(type_: NodeType, node: Amounts) -> bool:
    """Ray starts a node with exactly the resources that its type declares, beside those of its own."""
    return all(node.get(name, 0) == amount for name, amount in type_.resources.items())


@dataclass(frozen=True)
class Need:
    """What a trial takes: `resources` of each of `nodes` nodes."""

    nodes: int
    resources: tuple[tuple[str, float], ...]

    def fits(self, have: Amounts) -> bool:
        """Whether a node with these amounts has one node's part."""
        return all(have.get(name, 0) >= amount - _ENOUGH for name, amount in self.resources)

    def taken_from(self, have: Amounts) -> dict[str, float]:
        """What is left of a node's amounts when the trial has taken its part."""
        taken = dict(self.resources)
        return {name: amount - taken.get(name, 0) for name, amount in have.items()}

    def in_words(self) -> str:
        """As `2 nodes with 4 GPUs, 4 CPUs and a bench_slot each`."""
        parts = parts_in_words(dict(self.resources))
        labels = labels_of(dict(self.resources))
        where = f", labelled {' and '.join(labels)}" if labels else ""
        return f"{counted(self.nodes, 'node')} with {parts}{' each' if self.nodes > 1 else ''}{where}"


def labels_as_amounts(labels: Mapping[str, str], amount: float = 1.0) -> dict[str, float]:
    """The labels of a node, or with a smaller amount those that a trial wants, beside resources."""
    return {f"{LABEL}{key}={value}": amount for key, value in labels.items()}


def node_amounts(resources: Amounts | None, labels: Mapping[str, str] | None) -> dict[str, float]:
    """What a node has, by its resources and its labels as Ray tells them."""
    return dict(resources or {}) | labels_as_amounts(labels or {})


def labels_of(amounts: Amounts) -> list[str]:
    """The labels among amounts, as `zone=a`."""
    return sorted(name.removeprefix(LABEL) for name in amounts if name.startswith(LABEL))


def kind_of(resources: Amounts) -> Kind:
    """What makes two nodes twins: their GPUs and CPUs, and Ray's name of their accelerator."""
    return int(resources.get("GPU", 0)), int(resources.get("CPU", 0)), ", ".join(accelerators([resources]))


def accelerators(nodes: Iterable[Amounts]) -> list[str]:
    """Ray's names of the accelerators that these nodes have."""
    return sorted({name.removeprefix(ACCELERATOR) for node in nodes for name in node if name.startswith(ACCELERATOR)})


def kind_in_words(kind: Kind) -> str:
    """As `4 A100 GPUs and 48 CPUs`."""
    gpus, cpus, accelerator = kind
    resources = {"GPU": gpus, "CPU": cpus, **({ACCELERATOR + accelerator: 1} if accelerator else {})}
    return parts_in_words(resources)


def parts_in_words(resources: Amounts) -> str:
    """The amounts that raybench asks for, as `4 A100 GPUs, 4 CPUs and a bench_slot`."""
    gpus, cpus, slots = (resources.get(name, 0) for name in ("GPU", "CPU", SLOT))
    named = ", ".join(accelerators([resources]))
    parts = [counted(gpus, f"{named} GPU".strip())] if gpus else [named] if named else []
    if cpus:
        parts.append(counted(cpus, "CPU"))
    if slots:
        parts.append("a bench_slot" if slots > 0.99 else f"{slots:g} of a bench_slot")
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "nothing"


def nodes_in_words(nodes: Iterable[Amounts]) -> str:
    """Some nodes that can train, by kind, as `2 nodes with 4 CPUs and a bench_slot`; `none` without any."""
    training = [node for node in nodes if node.get("CPU", 0) or node.get("GPU", 0)]
    texts = Counter(parts_in_words({**node, SLOT: min(1, node.get(SLOT, 0))}) for node in training)
    return ", ".join(f"{counted(number, 'node')} with {text}" for text, number in sorted(texts.items())) or "none"
