"""Which block may start, and on which nodes: in the plan's order, so that small blocks do not starve a large one.

A block asks and is granted nodes, told to wait, or refused when what it needs did not come in time. Its processes
then start on exactly these nodes. Free resources are those that Ray reports, less grants not yet taken; so several
sweeps can share a cluster. Pure: its inputs are questions, looks at the fleet, and a clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from raybench.cluster.fleet import SLOT, Amounts, Autoscaler, Kind, Need, Node, kind_of, nodes_in_words

_FRESH_SECONDS = 1.0  # one look at the fleet serves every question within this time
_SILENT_SECONDS = 60.0  # a waiting block that is silent for longer is gone
# How long a block may lack processes between two groups before its nodes count as given back.
_GROUPLESS_SECONDS = 300.0


@dataclass(frozen=True)
class Granted:
    """The block may start on these nodes (Ray's ids); empty where Ray's autoscaler has to start them first."""

    node_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """What the block needs did not come in time."""

    why: str


@dataclass(frozen=True)
class Wait:
    """Ask again later."""


@dataclass(frozen=True)
class Look:
    """Ask again, with a look at the fleet."""


@dataclass(frozen=True)
class Stop:
    """The sweep is to stop: nothing more starts."""


Answer = Granted | Refused | Wait | Look | Stop


@dataclass(frozen=True)
class Missed:
    """Missing nodes that are waited for: what, for how many seconds so far, and at most how long."""

    what: str
    seconds: float
    most: float


@dataclass
class _Waiting:
    need: Need
    setting_ids: frozenset[str]
    wanted: frozenset[str]  # names of the nodes where its earlier legs ran


@dataclass
class _Grant:
    need: Need
    setting_ids: frozenset[str]
    node_ids: tuple[str, ...]  # empty: the nodes have yet to start
    since: float
    placed: bool = False  # whether its processes have started there
    idle_since: float | None = None  # since when Ray has shown nothing of it


@dataclass
class Queue:
    """Blocks that want to start, lowest number first; missing nodes are waited for `wait_seconds`."""

    wait_seconds: float
    autoscaler: Autoscaler | None = None
    clock: Callable[[], float] = time.monotonic
    _nodes: dict[str, Node] = field(default_factory=dict)
    _looked_at: float = float("-inf")
    _waiting: dict[int, _Waiting] = field(default_factory=dict)
    _asked_at: dict[int, float] = field(default_factory=dict)
    _grants: dict[int, _Grant] = field(default_factory=dict)
    _missed_since: dict[Need, float] = field(default_factory=dict)  # since when the fleet could not serve it
    _never_came: set[Need] = field(default_factory=set)  # asked of the autoscaler, without success
    _kinds: dict[str, Kind] = field(default_factory=dict)  # setting -> kind of nodes for its trials
    _is_decided: bool = False  # whether nothing has changed since the last decision

    def ask(
        self,
        number: int,
        setting_ids: Iterable[str],
        need: Need,
        wanted: Iterable[str] = (),
        fleet: Iterable[Node] | None = None,
    ) -> Answer:
        """A block wants to start. It asks again and again until it is granted or refused.

        `setting_ids`: its trials' settings; each setting's trials should run on nodes of one kind. `wanted`: names of
        the nodes where its earlier legs ran; while these live, no others will do. `fleet`: the living nodes, if the
        caller has looked.
        """
        if fleet is not None:
            self._look(fleet)
        grant = self._grants.get(number)
        if grant is not None and all(node_id in self._nodes for node_id in grant.node_ids):
            return Granted(grant.node_ids)
        waiting = _Waiting(need, frozenset(setting_ids), frozenset(wanted))
        if self._waiting.get(number) != waiting:
            self.release(number)
            self._waiting[number] = waiting
        self._asked_at[number] = self.clock()
        if self.clock() - self._looked_at > _FRESH_SECONDS:
            return Look()
        if not self._is_decided:
            self._decide()
        if number in self._grants:
            return Granted(self._grants[number].node_ids)
        since = self._missed_since.get(need)
        if since is not None and self.clock() - since >= self.wait_seconds:
            self.release(number)
            return Refused(self._why_not(need))
        return Wait()

    def placed(self, number: int, node_ids: Collection[str]) -> None:
        """A block's processes have started on these nodes."""
        grant = self._grants.get(number)
        if grant is None:
            return
        grant.node_ids, grant.placed, grant.idle_since = tuple(sorted(set(node_ids))), True, None
        self._is_decided = False
        known = [self._nodes[node_id] for node_id in grant.node_ids if node_id in self._nodes]
        if known:
            self._settle(grant.setting_ids, known[0])

    def restore(
        self, number: int, setting_ids: Iterable[str], need: Need, node_ids: Collection[str], placed: bool
    ) -> None:
        """A block that an earlier queue granted these nodes still has them; `placed`: its processes run there."""
        self._grants[number] = _Grant(need, frozenset(setting_ids), tuple(node_ids), self.clock(), placed)
        self._is_decided = False

    def not_started(self, number: int) -> None:
        """A block's processes could not be started where it was granted: it has to ask again."""
        grant = self._grants.get(number)
        if grant is not None and not grant.node_ids and self.clock() - grant.since >= self.wait_seconds:
            self._never_came.add(grant.need)
            self._missed_since[grant.need] = self.clock() - self.wait_seconds
        self.release(number)

    def release(self, number: int) -> None:
        """A block has ended, or has to ask again."""
        self._grants.pop(number, None)
        self._waiting.pop(number, None)
        self._is_decided = False

    def missed(self) -> list[Missed]:
        """What is waited for and missing."""
        now = self.clock()
        since = {w.need: self._missed_since[w.need] for w in self._waiting.values() if w.need in self._missed_since}
        for grant in self._grants.values():
            if not grant.node_ids and not grant.placed:
                since[grant.need] = min(grant.since, since.get(grant.need, grant.since))
        return [Missed(need.in_words(), now - begun, self.wait_seconds) for need, begun in since.items()]

    def kind_of_setting(self, setting_id: str) -> Kind | None:
        """The kind of nodes that a setting's trials run on; None where none has run."""
        return self._kinds.get(setting_id)

    def _settle(self, setting_ids: Iterable[str], node: Node) -> None:
        """From now on, trials of these settings run on nodes of this node's kind, where possible."""
        for setting_id in setting_ids:
            self._kinds.setdefault(setting_id, kind_of(node.total))

    def _look(self, fleet: Iterable[Node]) -> None:
        self._is_decided = False
        is_first, now = self._looked_at == float("-inf"), self.clock()
        self._looked_at = now
        there = {node.node_id: node for node in fleet}
        joined = [node for node_id, node in there.items() if node_id not in self._nodes and not is_first]
        self._never_came = {need for need in self._never_came if not any(need.fits(node.total) for node in joined)}
        self._nodes = there
        for number in [number for number in self._waiting if now - self._asked_at[number] > _SILENT_SECONDS]:
            del self._waiting[number]  # its process was killed
        for number, grant in list(self._grants.items()):
            if grant.placed and grant.node_ids and grant.node_ids[0] in self._nodes:
                self._settle(grant.setting_ids, self._nodes[grant.node_ids[0]])  # not known yet when it was restored
            if self._is_idle(grant):
                grant.idle_since = now if grant.idle_since is None else grant.idle_since
            else:
                grant.idle_since = None
            patience = _GROUPLESS_SECONDS if grant.placed else self.wait_seconds + _GROUPLESS_SECONDS
            if grant.idle_since is not None and now - grant.idle_since > patience:
                del self._grants[number]  # the block is gone without notice

    def _is_idle(self, grant: _Grant) -> bool:
        """Whether Ray shows nothing of a block on the nodes that it has, or these are gone."""
        for node_id in grant.node_ids:
            node = self._nodes.get(node_id)
            others = sum(dict(g.need.resources).get(SLOT, 0) for g in self._on(node_id) if g is not grant)
            if node is not None and node.free.get(SLOT, 0) + others < node.total.get(SLOT, 0) - 1e-3:
                return False
        return True

    def _on(self, node_id: str) -> list[_Grant]:
        return [grant for grant in self._grants.values() if node_id in grant.node_ids]

    def _decide(self) -> None:
        """Grant what can be granted now, in the plan's order.

        A block that waits only for other blocks of this sweep reserves the free nodes that it could use. A block that
        no nodes of this cluster could serve reserves none.
        """
        self._is_decided = True
        ours = _by_node(self._grants.values())
        untaken = _by_node(grant for grant in self._grants.values() if not grant.placed)
        left = {
            node_id: _left(node, ours.get(node_id, {}), untaken.get(node_id, {}))
            for node_id, node in self._nodes.items()
        }
        coming = self.autoscaler.to_come(n.total for n in self._nodes.values()) if self.autoscaler else []
        for grant in self._grants.values():
            if not grant.node_ids and not grant.placed:
                _reserve(grant.need, left, coming)
        for number in sorted(self._waiting):
            asked = self._waiting[number]
            nodes = self._eligible(asked)
            free = [node for node in nodes if node.node_id in left and asked.need.fits(left[node.node_id])]
            possible = [node for node in nodes if asked.need.fits(_when_ours_end(node, ours.get(node.node_id, {})))]
            chosen = _choose(asked.need, free, possible)
            if chosen:
                self._grant(number, [node.node_id for node in chosen])
                self._settle(asked.setting_ids, chosen[0])
                for node in chosen:
                    left[node.node_id] = asked.need.taken_from(left[node.node_id])
            elif self._can_come(asked.need, free, coming):
                self._grant(number, [])
                _reserve(asked.need, left, coming)
            elif len(possible) >= asked.need.nodes:
                self._missed_since.pop(asked.need, None)
                for node in free:
                    del left[node.node_id]
            else:
                self._missed_since.setdefault(asked.need, self.clock())

    def _grant(self, number: int, node_ids: list[str]) -> None:
        asked = self._waiting.pop(number)
        self._grants[number] = _Grant(asked.need, asked.setting_ids, tuple(node_ids), self.clock())
        self._missed_since.pop(asked.need, None)

    def _eligible(self, asked: _Waiting) -> list[Node]:
        """Nodes with enough resources in total: those of its earlier legs, else of its setting's kind, else all."""
        nodes = [node for node in self._nodes.values() if asked.need.fits(node.total)]
        earlier = [node for node in nodes if node.name in asked.wanted]
        if asked.wanted and {node.name for node in earlier} == asked.wanted and len(earlier) >= asked.need.nodes:
            return earlier
        kinds = {self._kinds[setting_id] for setting_id in asked.setting_ids if setting_id in self._kinds}
        alike = [node for node in nodes if kinds == {kind_of(node.total)}]
        return alike if len(alike) >= asked.need.nodes else nodes

    def _can_come(self, need: Need, free: Sequence[Node], coming: Sequence[Amounts]) -> bool:
        if need in self._never_came:
            return False
        return len(free) < need.nodes <= len(free) + sum(need.fits(resources) for resources in coming)

    def _why_not(self, need: Need) -> str:
        minutes = f"{self.wait_seconds / 60:.0f} min" if self.wait_seconds >= 90 else f"{self.wait_seconds:.0f} s"
        there = nodes_in_words(node.total for node in self._nodes.values())
        free = sum(need.fits(node.free) for node in self._nodes.values())
        taken = sum(need.fits(node.total) for node in self._nodes.values()) - free
        others = f", {taken} of them taken by others" if taken > 0 else ""
        return f"{need.in_words()} did not become available within {minutes}; there are: {there}{others}"


def _choose(need: Need, free: Sequence[Node], possible: Sequence[Node]) -> list[Node]:
    """The smallest free nodes that fit a block; empty where it has to wait.

    Several nodes are of one kind, unless no kind has enough nodes even when everything in `possible` is free.
    """
    by_kind: dict[Kind, list[Node]] = {}
    for node in sorted(free, key=lambda node: (kind_of(node.total), node.name, node.node_id)):
        by_kind.setdefault(kind_of(node.total), []).append(node)
    for nodes in by_kind.values():
        if len(nodes) >= need.nodes:
            return nodes[: need.nodes]
    kinds = [kind_of(node.total) for node in possible]
    if any(kinds.count(kind) >= need.nodes for kind in kinds) or len(free) < need.nodes:
        return []
    return [node for nodes in by_kind.values() for node in nodes][: need.nodes]


def _reserve(need: Need, left: dict[str, dict[str, float]], coming: list[Amounts]) -> None:
    """Subtract what a block without nodes will get: from free nodes first, where Ray puts it as soon as it can."""
    missing = need.nodes
    for node_id in [node_id for node_id, amounts in left.items() if need.fits(amounts)][:missing]:
        left[node_id] = need.taken_from(left[node_id])
        missing -= 1
    for resources in [resources for resources in coming if need.fits(resources)][:missing]:
        coming.remove(resources)


def _by_node(grants: Iterable[_Grant]) -> dict[str, dict[str, float]]:
    """The granted amounts of each node."""
    total: dict[str, dict[str, float]] = {}
    for grant in grants:
        for node_id in grant.node_ids:
            of_node = total.setdefault(node_id, {})
            for name, amount in grant.need.resources:
                of_node[name] = of_node.get(name, 0) + amount
    return total


def _left(node: Node, ours: Amounts, untaken: Amounts) -> dict[str, float]:
    """The amounts of a node that are neither in use nor granted; `untaken`: grants that have no processes yet."""
    return {
        name: min(node.free.get(name, 0) - untaken.get(name, 0), amount - ours.get(name, 0))
        for name, amount in node.total.items()
    }


def _when_ours_end(node: Node, ours: Amounts) -> dict[str, float]:
    """The amounts that would be free on a node without this sweep's blocks."""
    return {name: min(total, node.free.get(name, 0) + ours.get(name, 0)) for name, total in node.total.items()}
