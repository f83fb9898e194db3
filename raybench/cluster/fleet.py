"""A cluster's nodes as raybench counts them: what each node has, what is free, what could be added. No ray here.

Amounts are Ray's resources by name; a node's label counts as an amount of 1. A node that trains declares one
`bench_slot`. A trial takes the whole slot, so that trials do not disturb each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from raybench.text import counted

Amounts = Mapping[str, float]
Kind = tuple[int, int, str]  # GPUs, CPUs, accelerator: nodes of one kind count as identical

SLOT: Final = "bench_slot"
ACCELERATOR: Final = "accelerator_type:"  # Ray gives a node with an A100 the resource accelerator_type:A100
HEAD: Final = "node:__internal_head__"  # a resource that only the head has
LABEL: Final = "label:"  # prefix of a node's label, as in label:zone=a
_ENOUGH: Final = 1e-6  # amounts are sums of multiples of 0.0001


@dataclass(frozen=True)
class Node:
    """A living node. Ray gives it a new id each time it joins; its name is for people."""

    node_id: str
    name: str
    total: Amounts
    free: Amounts  # at the time of reading; a resource without a free part may be missing


@dataclass(frozen=True)
class NodeType:
    """A node type that the autoscaler starts, at most `most` nodes at once."""

    name: str
    resources: Amounts
    most: int


@dataclass(frozen=True)
class Autoscaler:
    """What the autoscaler may start: `most` nodes of all types together, without the head."""

    types: tuple[NodeType, ...]
    most: int

    def to_come(self, living: Iterable[Amounts]) -> list[Amounts]:
        """The amounts of each node that could be started in addition to the living ones."""
        workers = [node for node in living if HEAD not in node]
        room = max(0, self.most - len(workers))
        coming: list[Amounts] = []
        for type_ in self.types:
            alive = sum(_is_of(type_, node) for node in workers)
            coming += [type_.resources] * max(0, type_.most - alive)
        return coming[:room]


def _is_of(type_: NodeType, node: Amounts) -> bool:
    """Ray starts a node with exactly the resources that its type declares, besides Ray's own resources."""
    return all(node.get(name, 0) == amount for name, amount in type_.resources.items())


@dataclass(frozen=True)
class Need:
    """What a trial takes: `resources` on each of `nodes` nodes."""

    nodes: int
    resources: tuple[tuple[str, float], ...]

    def fits(self, have: Amounts) -> bool:
        """Whether a node with these amounts has enough for one node's part."""
        return all(have.get(name, 0) >= amount - _ENOUGH for name, amount in self.resources)

    def taken_from(self, have: Amounts) -> dict[str, float]:
        """What is left of a node's amounts once the trial has taken its part."""
        taken = dict(self.resources)
        return {name: amount - taken.get(name, 0) for name, amount in have.items()}

    def in_words(self) -> str:
        """As `2 nodes with 4 GPUs, 4 CPUs and a bench_slot each`."""
        parts = parts_in_words(dict(self.resources))
        labels = labels_of(dict(self.resources))
        where = f", labelled {' and '.join(labels)}" if labels else ""
        return f"{counted(self.nodes, 'node')} with {parts}{' each' if self.nodes > 1 else ''}{where}"


def labels_as_amounts(labels: Mapping[str, str], amount: float = 1.0) -> dict[str, float]:
    """A node's labels as amounts; with a smaller `amount`, a trial's wanted labels."""
    return {f"{LABEL}{key}={value}": amount for key, value in labels.items()}


def node_amounts(resources: Amounts | None, labels: Mapping[str, str] | None) -> dict[str, float]:
    """A node's amounts, from Ray's resources and labels."""
    return dict(resources or {}) | labels_as_amounts(labels or {})


def labels_of(amounts: Amounts) -> list[str]:
    """The labels among these amounts, as `zone=a`."""
    return sorted(name.removeprefix(LABEL) for name in amounts if name.startswith(LABEL))


def kind_of(resources: Amounts) -> Kind:
    """A node's kind: its GPUs and CPUs, and Ray's name for its accelerator."""
    return int(resources.get("GPU", 0)), int(resources.get("CPU", 0)), ", ".join(accelerators([resources]))


def accelerators(nodes: Iterable[Amounts]) -> list[str]:
    """Ray's names for the accelerators of these nodes."""
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
    """Nodes that can train, by kind, as `2 nodes with 4 CPUs and a bench_slot`; `none` without any."""
    training = [node for node in nodes if node.get("CPU", 0) or node.get("GPU", 0)]
    texts = Counter(parts_in_words({**node, SLOT: min(1, node.get(SLOT, 0))}) for node in training)
    return ", ".join(f"{counted(number, 'node')} with {text}" for text, number in sorted(texts.items())) or "none"
