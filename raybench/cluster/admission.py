"""Which trial may start, and on which nodes: in the plan's order, so that small trials do not starve a large one.

A trial asks, and is granted nodes of its own, told to wait, or refused when what it needs did not come in time. Its
processes are then started on just these nodes. What is free is what Ray says, less what was granted and not yet taken;
so several sweeps share a cluster. Pure: fed with questions, looks at the fleet, and a clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raybench.cluster.fleet import SLOT, Amounts, Autoscaler, Kind, Need, Node, kind_of, nodes_in_words

_FRESH_SECONDS = 1.0  # a look at the fleet serves all who ask within it
_SILENT_SECONDS = 60.0  # a trial that waits asks more often than this
# A trial's processes may be gone for as long between two of its groups; then its nodes count as given back.
_GROUPLESS_SECONDS = 300.0


@dataclass
class _Waiting:
    need: Need
    setting_id: str
    wanted: frozenset[str]  # names of the nodes on which its earlier legs ran


@dataclass
class _Grant:
    need: Need
    setting_id: str
    node_ids: tuple[str, ...]  # none: they have yet to come
    since: float
    placed: bool = False  # its processes have been there
    idle_since: float | None = None  # from when on Ray has shown nothing of it


@dataclass
class Queue:
    """The trials of a plan, in its `order`; nodes that are not there are waited for `wait_seconds`."""

    order: Sequence[str]
    wait_seconds: float
    autoscaler: Autoscaler | None = None
    clock: Callable[[], float] = time.monotonic
    _nodes: dict[str, Node] = field(default_factory=dict)
    _looked_at: float = float("-inf")
    _waiting: dict[str, _Waiting] = field(default_factory=dict)
    _asked_at: dict[str, float] = field(default_factory=dict)
    _grants: dict[str, _Grant] = field(default_factory=dict)
    _missed_since: dict[Need, float] = field(default_factory=dict)  # from when on the fleet could not serve it
    _never_came: set[Need] = field(default_factory=set)  # that the autoscaler was asked for in vain
    _kinds: dict[str, Kind] = field(default_factory=dict)  # setting -> the nodes that its trials run on
    _is_decided: bool = False  # nothing has changed since it was decided who may start

    def __post_init__(self) -> None:
        self._place = {trial_id: place for place, trial_id in enumerate(self.order)}

    def ask(
        self,
        trial_id: str,
        setting_id: str,
        need: Need,
        wanted: Iterable[str] = (),
        fleet: Iterable[Node] | None = None,
    ) -> dict[str, Any]:
        """A trial wants to start; asked again and again until it is granted or refused.

        `wanted`: names of the nodes on which its earlier legs ran, the only ones that will do while they live.
        `fleet`: the living nodes, where the one who asks has looked. The answer's `state` is `look` (ask again with
        the fleet), `wait`, `refused` (with `why`), or `granted` with `node_ids`: none where the nodes have to be
        started, which Ray's autoscaler does when processes are asked for.
        """
        if fleet is not None:
            self._look(fleet)
        grant = self._grants.get(trial_id)
        if grant is not None and all(node_id in self._nodes for node_id in grant.node_ids):
            return {"state": "granted", "node_ids": list(grant.node_ids)}
        waiting = _Waiting(need, setting_id, frozenset(wanted))
        if self._waiting.get(trial_id) != waiting:
            self.release(trial_id)
            self._waiting[trial_id] = waiting
        self._asked_at[trial_id] = self.clock()
        if self.clock() - self._looked_at > _FRESH_SECONDS:
            return {"state": "look"}
        if not self._is_decided:
            self._decide()
        if trial_id in self._grants:
            return {"state": "granted", "node_ids": list(self._grants[trial_id].node_ids)}
        since = self._missed_since.get(need)
        if since is not None and self.clock() - since >= self.wait_seconds:
            self.release(trial_id)
            return {"state": "refused", "why": self._why_not(need)}
        return {"state": "wait"}

    def placed(self, trial_id: str, node_ids: Collection[str]) -> None:
        """A trial's processes are up on these nodes."""
        grant = self._grants.get(trial_id)
        if grant is None:
            return
        grant.node_ids, grant.placed, grant.idle_since = tuple(sorted(set(node_ids))), True, None
        self._is_decided = False
        known = [self._nodes[node_id] for node_id in grant.node_ids if node_id in self._nodes]
        if known:
            self._kinds.setdefault(grant.setting_id, kind_of(known[0].total))

    def not_started(self, trial_id: str) -> None:
        """The processes of a trial could not be started where it was granted: it has to ask again."""
        grant = self._grants.get(trial_id)
        if grant is not None and not grant.node_ids:
            self._never_came.add(grant.need)
            self._missed_since[grant.need] = self.clock() - self.wait_seconds
        self.release(trial_id)

    def release(self, trial_id: str) -> None:
        """A trial has ended, or has to ask again."""
        self._grants.pop(trial_id, None)
        self._waiting.pop(trial_id, None)
        self._is_decided = False

    def missed(self) -> list[dict[str, Any]]:
        """What is waited for and not there: `what` in words, `seconds` so far, `most` that it is waited for."""
        now = self.clock()
        since = {w.need: self._missed_since[w.need] for w in self._waiting.values() if w.need in self._missed_since}
        for grant in self._grants.values():
            if not grant.node_ids and not grant.placed:
                since[grant.need] = min(grant.since, since.get(grant.need, grant.since))
        return [
            {"what": need.in_words(), "seconds": now - begun, "most": self.wait_seconds}
            for need, begun in since.items()
        ]

    def _look(self, fleet: Iterable[Node]) -> None:
        self._is_decided = False
        now = self._looked_at = self.clock()
        self._nodes = {node.node_id: node for node in fleet}
        for trial_id in [trial_id for trial_id in self._waiting if now - self._asked_at[trial_id] > _SILENT_SECONDS]:
            del self._waiting[trial_id]  # its process was killed
        for trial_id, grant in list(self._grants.items()):
            if self._is_idle(grant):
                grant.idle_since = now if grant.idle_since is None else grant.idle_since
            else:
                grant.idle_since = None
            patience = _GROUPLESS_SECONDS if grant.placed else self.wait_seconds + _GROUPLESS_SECONDS
            if grant.idle_since is not None and now - grant.idle_since > patience:
                del self._grants[trial_id]  # whoever had it is gone without a word

    def _is_idle(self, grant: _Grant) -> bool:
        """Whether Ray shows nothing of a trial on the nodes that it has, or these are gone."""
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

        A trial that only waits for others of this sweep keeps the nodes that it could use from those behind it. One
        that nothing there could serve keeps none.
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
        for trial_id in sorted(self._waiting, key=lambda one: self._place[one]):
            asked = self._waiting[trial_id]
            nodes = self._eligible(asked)
            free = [node for node in nodes if node.node_id in left and asked.need.fits(left[node.node_id])]
            possible = [node for node in nodes if asked.need.fits(_when_ours_end(node, ours.get(node.node_id, {})))]
            chosen = _choose(asked.need, free, possible)
            if chosen:
                self._grant(trial_id, [node.node_id for node in chosen])
                self._kinds.setdefault(asked.setting_id, kind_of(chosen[0].total))
                for node in chosen:
                    left[node.node_id] = asked.need.taken_from(left[node.node_id])
            elif self._can_come(asked.need, free, coming):
                self._grant(trial_id, [])
                _reserve(asked.need, left, coming)
            elif len(possible) >= asked.need.nodes:
                self._missed_since.pop(asked.need, None)
                for node in free:
                    del left[node.node_id]
            else:
                self._missed_since.setdefault(asked.need, self.clock())

    def _grant(self, trial_id: str, node_ids: list[str]) -> None:
        asked = self._waiting.pop(trial_id)
        self._grants[trial_id] = _Grant(asked.need, asked.setting_id, tuple(node_ids), self.clock())
        self._missed_since.pop(asked.need, None)

    def _eligible(self, asked: _Waiting) -> list[Node]:
        """The living nodes that would do were they free: those of its earlier legs, else of its setting's kind."""
        nodes = [node for node in self._nodes.values() if asked.need.fits(node.total)]
        earlier = [node for node in nodes if node.name in asked.wanted]
        if asked.wanted and {node.name for node in earlier} == asked.wanted and len(earlier) >= asked.need.nodes:
            return earlier
        kind = self._kinds.get(asked.setting_id)
        alike = [node for node in nodes if kind_of(node.total) == kind]
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
        return f"waited {minutes} for {need.in_words()}, in vain; there are: {there}{others}"


def _choose(need: Need, free: Sequence[Node], possible: Sequence[Node]) -> list[Node]:
    """The nodes for a trial among the free ones, the least that will do; none where it has to wait.

    Several nodes are of one kind, unless no kind has enough of them even when all that is possible is free.
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
    """Take away what a trial gets that has no nodes yet: first of what is free, where Ray puts it as soon as it can."""
    missing = need.nodes
    for node_id in [node_id for node_id, amounts in left.items() if need.fits(amounts)][:missing]:
        left[node_id] = need.taken_from(left[node_id])
        missing -= 1
    for resources in [resources for resources in coming if need.fits(resources)][:missing]:
        coming.remove(resources)


def _by_node(grants: Iterable[_Grant]) -> dict[str, dict[str, float]]:
    """What was granted of each node."""
    total: dict[str, dict[str, float]] = {}
    for grant in grants:
        for node_id in grant.node_ids:
            of_node = total.setdefault(node_id, {})
            for name, amount in grant.need.resources:
                of_node[name] = of_node.get(name, 0) + amount
    return total


def _left(node: Node, ours: Amounts, untaken: Amounts) -> dict[str, float]:
    """What of a node is neither taken, by anyone, nor granted; `untaken`: what was granted and has no processes yet."""
    return {
        name: min(node.free.get(name, 0) - untaken.get(name, 0), amount - ours.get(name, 0))
        for name, amount in node.total.items()
    }


def _when_ours_end(node: Node, ours: Amounts) -> dict[str, float]:
    """What of a node would be free were no trial of this sweep there."""
    return {name: min(total, node.free.get(name, 0) + ours.get(name, 0)) for name, total in node.total.items()}
