"""The recorder: one actor beside the driver, the single writer of the ledger and of MLflow.

A worker hands over a leg's outcome and goes on when `record` has returned: the row is durable then. MLflow is
written when a trial has ended, in a thread of the recorder's own, while the next trial's processes start and
nothing is timed; if MLflow is slow or gone, measuring goes on and `raybench sync` brings it up to date later.

A recorder that is killed is started again by Ray, which repeats the calls that it did not answer: what it knows is
in the ledger and in `raybench.driver.running`, and every method may be called twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raybench.cluster.admission import Queue
from raybench.cluster.fleet import Autoscaler, Need, Node
from raybench.declare.plan import Leg, Plan, Trial
from raybench.driver.events import leg_event
from raybench.driver.running import Running, RunningTrial
from raybench.errors import StorageError
from raybench.ledger import outcome as outcomes
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Failure, Outcome
from raybench.redaction import without_secrets
from raybench.stores.storage import hidden_folder, to_path
from raybench.tracking.mlflow_thread import MlflowThread


class Recorder:
    """The state of a running sweep: which legs have an outcome, which one runs. A Ray actor in a sweep."""

    def __init__(
        self,
        plan_json: str | Path,
        folder: str,
        space_yaml: str,
        tracking_uri: str,
        artifact_root: str,
        variables: Mapping[str, str] | None = None,
        state_file: str = "",
        *,
        wait_seconds: float = 1200.0,
        autoscaler: Autoscaler | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`plan_json`: the plan, or the file that holds it, because Ray cannot start an actor again whose arguments are
        large. `folder`: a path or a URI. `variables`: the driver's MLFLOW_* variables and its store's, which do not
        reach an actor of a cluster by themselves.

        `state_file`: where it keeps what runs (`raybench.driver.running`), beside the ledger unless told otherwise.
        Raises RuntimeError when it is started again and the ledger is gone. `wait_seconds`: how long nodes that are not
        there are waited for; `autoscaler`: what can start some.
        """
        os.environ.update(variables or {})
        self.clock = clock
        self.plan = Plan.model_validate_json(plan_json.read_bytes() if isinstance(plan_json, Path) else plan_json)
        self.ledger = Ledger(to_path(folder))
        self.space_yaml = space_yaml
        self.legs: dict[str, tuple[Trial, Leg]] = {leg.leg_id: (trial, leg) for trial, leg in self.plan.legs()}
        self.trials = {trial.trial_id: trial for trial in self.plan.trials}
        self.queue = Queue(list(self.trials), wait_seconds, autoscaler, clock)
        hidden = hidden_folder(self.ledger.folder)
        beside = hidden.with_name(f"{hidden.name}.running")
        self.running = Running.load(Path(state_file) if state_file else beside)
        self.events: list[dict[str, Any]] = []
        self.unlogged: dict[str, list[dict[str, Any]]] = {}  # trial -> rows that MLflow does not have
        self.mlflow = MlflowThread(tracking_uri, artifact_root, self.plan.space, self.plan.sweep)
        self.batches: dict[str, dict[str, dict[str, Any]]] = {}  # setting -> arm -> how its largest batch was found
        self.ledger.finish_withdrawals()
        rows = self.ledger.rows()
        self.done = {row["leg_id"] for row in rows}
        self.attempts: dict[str, int] = {}  # trial -> how often it has begun anew
        self.placements: dict[str, Any] = {}  # trial with outcomes -> where they come from; None where not known
        for row in rows:
            self._note_batch(row)
            self.attempts[row["trial_id"]] = row.get("attempt") or 0
            self.placements[row["trial_id"]] = json.loads(row.get("placement") or "null")
        for row in self.ledger.withdrawn():
            self.attempts[row["trial_id"]] = max(self.attempts.get(row["trial_id"], 0), row["attempt"] + 1)
        if self.running.incarnation == 1:
            self.mlflow.log(rows)
        else:
            self._go_on(rows)
        self.running.save()

    def _go_on(self, rows: list[dict[str, Any]]) -> None:
        """After an earlier recorder's death: MLflow gets its rows at the end, and the driver is told all again."""
        if self.running.wrote and not self.ledger.folder.is_dir():
            raise RuntimeError(f"the ledger {self.ledger.folder} is gone")
        self.events = [leg_event(row) for row in rows if row["leg_id"] in self.legs]
        self.events.append({"note": "the recorder was killed, and goes on from the ledger"})

    def trial(self, trial_id: str) -> str:
        """The trial as JSON."""
        return self.trials[trial_id].model_dump_json()

    def trial_began(self, trial_id: str, process: str = "") -> str:
        """A trial is about to start its processes, from this one. Returns it as JSON.

        A trial that runs already has lost its own process: the leg that ran then runs again.
        """
        if trial_id not in self.running.trials:
            self.running.trials[trial_id] = RunningTrial(self.clock(), process)
        elif self.running.trials[trial_id].process != process:
            self.running.trials[trial_id].process = process
            self._cut(trial_id, "its trial process was killed")
        self.running.save()
        return self.trial(trial_id)

    def next_group(self, trial_id: str) -> dict[str, Any]:
        """The trial's next group of processes: `legs` that have no outcome yet, in their order, none where nothing is
        left or the sweep is to stop; `nodes` that its outcomes come from; `attempt`, how often it has begun anew;
        `cut`, whether its last processes were killed and may have left something behind.

        `group_placed` has the last word on the legs.
        """
        nodes = [place["node"] for place in self.placements.get(trial_id) or []]
        return {
            "legs": self._left(trial_id),
            "nodes": list(dict.fromkeys(nodes)),
            "attempt": self.attempts.get(trial_id, 0),
            "cut": trial_id in self.running.trials and self.running.trials[trial_id].group == _NOBODY,
        }

    def admit(
        self, trial_id: str, need: Need, wanted: Sequence[str] = (), fleet: Sequence[Node] | None = None
    ) -> dict[str, Any]:
        """Whether a trial may start its processes now, and on which nodes: see `admission.Queue.ask`.

        The state `stop` says that the sweep is to stop.
        """
        if self.running.draining:
            self.queue.release(trial_id)
            return {"state": "stop"}
        answer = self.queue.ask(trial_id, self.trials[trial_id].setting_id, need, wanted, fleet)
        if answer["state"] == "wait" and trial_id in self.running.trials:
            self.running.trials[trial_id].began = self.clock()  # its processes are not asked for yet
        return answer

    def not_started(self, trial_id: str) -> None:
        """The processes of a trial did not come up on the nodes that it was granted."""
        self.queue.not_started(trial_id)

    def _left(self, trial_id: str) -> list[str]:
        trial = self.trials[trial_id]
        left = [] if self.running.draining else [leg.leg_id for leg in trial.legs if leg.leg_id not in self.done]
        return left if trial.isolation == "shared" else left[:1]

    def group_placed(self, trial_id: str, group: str, places: Sequence[Mapping[str, Any]]) -> list[str]:
        """A group's processes are up, one at each of `places`, in the order of ranks. Returns the legs to run.

        A place has `node`, a name, `node_id`, Ray's, and `gpus`, a list of UUIDs, at least. Where the trial has
        outcomes from another place it begins anew: they are withdrawn, and all its legs run here. From now on the
        word of no other group counts for this trial.
        """
        state = self.running.trials[trial_id]
        if state.group != group and not self.running.draining:
            placement = [{"node": place["node"], "gpus": list(place["gpus"])} for place in places]
            earlier = self.placements.get(trial_id)
            moved = earlier is None or outcomes.machines(earlier) != outcomes.machines(placement)
            if trial_id in self.placements and moved:
                try:
                    self._begin_anew(trial_id, placement)
                except (OSError, StorageError) as error:
                    self.running.stop_for(error)
                    return []
            state.group, state.placement, state.leg_id = group, placement, ""
            state.node_ids = sorted({place["node_id"] for place in places})
            self.queue.placed(trial_id, state.node_ids)
            self.running.save()
        return self._left(trial_id)

    def _begin_anew(self, trial_id: str, placement: Sequence[Mapping[str, Any]]) -> None:
        """Withdraw a trial's outcomes: they come from other machines than its next ones will."""
        trial = self.trials[trial_id]
        before, now = _node_names(self.placements.pop(trial_id)), _node_names(placement)
        why = f"measured on {before}, and the trial's other legs would have been on {now}"
        withdrawn = self.ledger.withdraw([leg.leg_id for leg in trial.legs if leg.leg_id in self.done], why)
        self.done -= {row["leg_id"] for row in withdrawn}
        self.unlogged.pop(trial_id, None)
        self.attempts[trial_id] = self.attempts.get(trial_id, 0) + 1
        legs = f"{len(withdrawn)} " + ("leg" if len(withdrawn) == 1 else "legs")
        self._note(trial, f"begins anew on {now}; {legs} measured on {before} no longer count", begins_anew=True)

    def _note(self, trial: Trial, text: str, *, begins_anew: bool = False) -> None:
        """Something to tell of a trial that is no leg's outcome."""
        note: dict[str, Any] = {"note": f"{trial.label} | repeat {trial.repeat}: {text}"}
        if begins_anew:
            note |= {"setting_id": trial.setting_id, "repeat": trial.repeat, "attempt": self.attempts[trial.trial_id]}
        self.events.append(note)

    def largest_batches(self, trial_id: str) -> dict[str, dict[str, Any]]:
        """What is known of the largest batches of the trial's setting, by arm (`Measurement.batch_probes`)."""
        return self.batches.get(self.trials[trial_id].setting_id, {})

    def _note_batch(self, row: dict[str, Any]) -> None:
        if row.get("batch_probes"):
            self.batches.setdefault(row["setting_id"], {})[row["arm"]] = json.loads(row["batch_probes"])

    def drain(self) -> None:
        """Begin no further leg: those that run end, and what is left waits for the same command again."""
        self.running.draining = True
        self.running.save()

    def begin(self, process_group: str, leg_id: str, node: str = "") -> bool:
        """A process group is about to run this leg. Returns whether it may: not once the sweep is to stop, and not
        where the leg's trial has ended or gone on in another group."""
        trial_id = self.legs[leg_id][0].trial_id
        state = self.running.trials.get(trial_id)
        if self.running.draining or state is None or state.group not in ("", process_group):
            return False
        if (state.group, state.leg_id) != (process_group, leg_id):
            state.group, state.leg_id, state.node = process_group, leg_id, node
            state.leg_began, state.leg_started_at = self.clock(), time.time()
            self.running.save()
        return True

    def unfinished(self, process_group: str) -> dict[str, Any]:
        """Of a process group that ended before its time: `leg_id`, which it had begun and not ended, or None;
        `seconds` since that began; `started_at`, when, by the calendar; `node_ids`, where it ran, empty where it
        never said."""
        for state in self.running.trials.values():
            if state.group == process_group:
                open_leg = state.leg_id if state.leg_id not in self.done else ""
                seconds = self.clock() - state.leg_began if open_leg else 0.0
                return {
                    "leg_id": open_leg or None, "seconds": seconds, "started_at": state.leg_started_at,
                    "node_ids": state.node_ids,
                }  # fmt: skip
        return {"leg_id": None, "seconds": 0.0, "started_at": 0.0, "node_ids": []}

    def cut(self, trial_id: str, group: str, why: str) -> None:
        """A group's processes were lost, and none of its legs is to blame: the one that ran runs again, whole."""
        state = self.running.trials[trial_id]
        if state.last_cut != group:
            state.last_cut = group
            self._cut(trial_id, why)
        self.running.save()

    def _cut(self, trial_id: str, why: str) -> None:
        state, trial = self.running.trials[trial_id], self.trials[trial_id]
        if state.leg_id and state.leg_id not in self.done:
            why += f"; {self.legs[state.leg_id][1].arm_name} of round {self.legs[state.leg_id][1].round} runs again"
        self._note(trial, why)
        state.group, state.placement, state.node_ids, state.leg_id = _NOBODY, None, [], ""
        self.queue.release(trial_id)

    def record(self, process_group: str, leg_id: str, values: dict[str, Any]) -> None:
        """Write a leg's outcome; durable when this returns. A leg that has one keeps its first; that of a group that
        its trial has left behind is not taken, nor that of a trial that has ended."""
        trial, leg = self.legs[leg_id]
        state = self.running.trials.get(trial.trial_id)
        if leg_id in self.done or state is None or state.group not in ("", process_group):
            return
        outcome = replace(
            _without_secrets(outcomes.from_dict(values)),
            process_group=process_group,
            attempt=self.attempts.get(trial.trial_id, 0),
            placement=state.placement,
        )
        arrived = time.monotonic()
        try:
            if not self.running.wrote:
                self.ledger.write_space(self.space_yaml)  # the latest: more repeats may be asked for than at first
            row = self.ledger.add(self.plan.sweep, self.plan.space, trial, leg, outcome)
        except (OSError, StorageError) as error:  # the leg has no outcome then, and runs again when there is room
            self.running.stop_for(error)
            state.leg_id = ""
            return
        if (waited := time.monotonic() - arrived) > _LONG_WRITE_SECONDS:
            self.events.append({"note": f"a row waited {waited:.0f} s to be written to {self.ledger.folder}"})
        if not self.running.wrote:
            self.running.wrote = True
            self.running.save()
        self.done.add(leg_id)
        self.placements[trial.trial_id] = state.placement
        self._note_batch(row)
        self.unlogged.setdefault(trial.trial_id, []).append(row)
        now = self.clock()
        begun = state.leg_began if state.leg_id == leg_id else now
        self.events.append({**leg_event(row), "seconds": now - begun, "trial_seconds": now - state.began})
        state.leg_id = ""

    def trial_ended(self, trial_id: str) -> None:
        """A trial's processes have ended: now MLflow may be written."""
        if self.running.trials.pop(trial_id, None) is not None:
            self.running.save()
        self.queue.release(trial_id)
        self.mlflow.log(self.unlogged.pop(trial_id, []))

    def news(self, since: int, incarnation: int = 0) -> dict[str, Any]:
        """What happened since event number `since` of this `incarnation` of the recorder (from its first on, where it
        is another one), the legs that run now, the nodes that are `missed` (`admission.Queue.missed`), how many trials
        have processes, and the `trouble` that nothing can be kept.

        An event is a leg's outcome (`leg_event`), or a `note` to tell; a note with an `attempt` says that the trial
        of its `setting_id` and `repeat` has begun anew.
        """
        now = self.clock()
        running = [
            {
                "setting": trial.label, "arm": leg.arm_name, "repeat": trial.repeat, "round": leg.round,
                "seconds": now - state.leg_began, "node": state.node,
            }
            for state in self.running.trials.values()
            if state.leg_id and state.leg_id not in self.done
            for trial, leg in [self.legs[state.leg_id]]
        ]  # fmt: skip
        return {
            "incarnation": self.running.incarnation,
            "events": self.events[since if incarnation == self.running.incarnation else 0 :],
            "running": running,
            "missed": self.queue.missed(),
            "num_active": len(self.running.trials),
            "trouble": self.running.trouble,
        }

    def finish(self) -> list[str]:
        """Write the legs that MLflow lacks; returns MLflow's errors, if any. What is left is for `publishing`."""
        for trial_id in list(self.unlogged):
            self.trial_ended(trial_id)
        return self.mlflow.finish()


def _without_secrets(outcome: Outcome) -> Outcome:
    """The outcome without what a failure's message may tell of the environment's secrets."""
    return replace(outcome, message=without_secrets(outcome.message)) if isinstance(outcome, Failure) else outcome


_LONG_WRITE_SECONDS = 5.0  # of which the user is told
_NOBODY = "-"  # the group of a trial whose next one is not placed yet


def _node_names(placement: Sequence[Mapping[str, Any]] | None) -> str:
    return " and ".join(dict.fromkeys(place["node"] for place in placement)) if placement else "a node not known"
