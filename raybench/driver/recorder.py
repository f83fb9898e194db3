"""The recorder: one actor beside the driver, the single writer of the ledger and of MLflow.

A worker hands over a leg's outcome and continues when `record` returns: the row is then durable. When a block has
ended, a thread of the recorder writes MLflow, while the next block's processes start and nothing is timed. If MLflow
is slow or down, measuring goes on and `raybench sync` catches up later.

Ray restarts a killed recorder and repeats the calls that it had not answered. So its state is in the ledger and in
`raybench.driver.running`, and every method may be called twice.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raybench.cluster.admission import Answer, Granted, Queue, Stop, Wait
from raybench.cluster.fleet import Autoscaler, Need, Node
from raybench.declare.blocks import Blocks, Pace
from raybench.declare.plan import Leg, Plan, Trial
from raybench.declare.protocol import StepChoice
from raybench.driver.messages import BeginsAnew, Block, Group, LegEvent, News, Note, RunningLeg, Unfinished, leg_event
from raybench.driver.running import Running, RunningBlock
from raybench.errors import StorageError
from raybench.ledger.batches import LargestBatch, LargestBatches, note_batch
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Failure, Measurement, Outcome
from raybench.ledger.quantities import Row
from raybench.machine.places import Placement, RankReport, machines, read_placement
from raybench.redaction import without_secrets
from raybench.statistics.num_steps import Pilot, StepChoices
from raybench.stores.storage import hidden_folder, to_path
from raybench.text import counted
from raybench.tracking.mlflow_thread import MlflowThread

_SLOW_WRITE_SECONDS = 5.0  # longer writes are reported to the user
_NOBODY = "-"  # the group of a block between two groups


class Recorder:
    """The state of a running sweep: which legs have an outcome, which leg runs. A Ray actor in a sweep."""

    def __init__(
        self,
        plan_json: str | Path,
        folder: str,
        space_yaml: str | Path,
        tracking_uri: str,
        artifact_root: str,
        variables: Mapping[str, str] | None = None,
        state_file: str = "",
        *,
        wait_seconds: float = 1200.0,
        autoscaler: Autoscaler | None = None,
        slots: int = 1,
        pace_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`plan_json` and `space_yaml`: the plan and its space, or files that hold them, because Ray cannot restart an
        actor whose arguments exceed 100 KB. `folder`: a path or a URI. `variables`: the driver's variables for MLflow
        and the store, which do not reach an actor on a cluster by themselves.

        `state_file`: where the recorder keeps what runs (`raybench.driver.running`); by default beside the ledger.
        Raises RuntimeError when it is restarted and the ledger is gone. `wait_seconds`: how long to wait for missing
        nodes; `autoscaler`: what can start nodes. `slots`: how many blocks may run at a time; `pace_file`: how long
        trials like the plan's took on this machine before (`Pace.to_json`).
        """
        os.environ.update(variables or {})
        self.clock = clock
        self.plan = Plan.model_validate_json(plan_json.read_bytes() if isinstance(plan_json, Path) else plan_json)
        self.ledger = Ledger(to_path(folder))
        self.space_yaml = space_yaml.read_text("utf-8") if isinstance(space_yaml, Path) else space_yaml
        self.legs: dict[str, tuple[Trial, Leg]] = {leg.leg_id: (trial, leg) for trial, leg in self.plan.legs()}
        self.trials = {trial.trial_id: trial for trial in self.plan.trials}
        self.queue = Queue(wait_seconds, autoscaler, clock)
        hidden = hidden_folder(self.ledger.folder)
        beside = hidden.with_name(f"{hidden.name}.running")
        self.running = Running.load(Path(state_file) if state_file else beside)
        self.events: list[LegEvent | Note] = []
        self.unlogged: dict[str, list[Row]] = {}  # trial -> rows missing in MLflow
        self.mlflow = MlflowThread(tracking_uri, artifact_root, self.plan.space, self.plan.sweep)
        self.batches: dict[str, dict[str, LargestBatch]] = {}  # by setting_id and arm
        self.handed_out: dict[int, float] = {}  # block -> time
        self.steps = StepChoices(self.running.steps)
        self.pace = Pace() if pace_file is None else Pace.from_json(pace_file.read_bytes())
        self.ledger.finish_withdrawals()
        rows = self.ledger.rows()
        self.done = {row["leg_id"] for row in rows}
        self.attempts: dict[str, int] = {}  # trial -> number of its attempts
        self.placements: dict[str, Placement | None] = {}  # trial with outcomes -> its place; None: not known
        for row in rows:
            note_batch(self.batches, row)
            self.steps.note(row)
            self.attempts[row["trial_id"]] = row.get("attempt") or 0
            if row.get("process_group") != "":  # "": legs whose environment could not be made ran nowhere
                self.placements[row["trial_id"]] = read_placement(row.get("placement"))
            event = leg_event(row)
            if event.seconds is not None and not event.profiled:
                self.pace.add_leg(event.setting_id, event.arm, event.seconds)
        for trial_id, attempt in self.ledger.attempts().items():
            self.attempts[trial_id] = max(self.attempts.get(trial_id, 0), attempt)
        if self.running.incarnation == 1:
            self.mlflow.log(rows)
        else:
            self._go_on(rows)
        self.blocks = Blocks((t for t in self.plan.trials if self._legs_left(t)), slots, self.pace)
        self.blocks.remove([trial_id for block in self.running.blocks for trial_id in block])
        self.blocks.want(self.running.wanted)
        self.running.save()

    def _go_on(self, rows: list[Row]) -> None:
        """Resume after an earlier recorder's death: MLflow gets its rows at the end, the driver gets all again."""
        if self.running.wrote and not self.ledger.folder.is_dir():
            raise RuntimeError(f"the ledger {self.ledger.folder} is gone")
        for number, state in self.running.active.items():
            if state.need is not None:
                settings = {trial.setting_id for trial in self._block(number).trials}
                self.queue.restore(number, settings, state.need, state.node_ids or state.granted, bool(state.node_ids))
        self.events = [leg_event(row) for row in rows if row["leg_id"] in self.legs]
        self.events.append(Note("the recorder was killed; a new one continues from the ledger"))

    def next_block(self, number: int) -> Block | None:
        """Block `number`, counted from 0: the next block to run; None where there is none, or none now.

        The same number gives the same block again.
        """
        blocks = self.running.blocks
        trials = [] if number < len(blocks) or self.running.draining else self.blocks.next_block(self._bound_to)
        if trials:
            blocks.append([trial.trial_id for trial in trials])
            self.handed_out[number] = self.clock()
            self.running.save()
        return self._block(number) if number < len(blocks) else None

    def want(self, trials: dict[str, int]) -> bool:
        """Limit each setting, by setting_id, to this many trials from now on. Returns whether the sweep goes on."""
        self.blocks.want(trials)
        self.running.wanted = trials
        self.running.save()
        return not self.running.draining

    def any_complete(self, trials: dict[str, int]) -> bool:
        """Whether, for one of these settings, every leg of its first `trials[setting_id]` trials has an outcome."""
        lacking = {
            t.setting_id for t in self.plan.trials if t.repeat < trials.get(t.setting_id, 0) and self._legs_left(t)
        }
        return not trials.keys() <= lacking

    def _bound_to(self, trial: Trial) -> Hashable:
        """The machines on which a trial's legs ran, else the kind of machine of its setting's other trials."""
        if placement := self.placements.get(trial.trial_id):
            return tuple(sorted({place.node for place in placement}))
        return self.queue.kind_of_setting(trial.setting_id)

    def _block(self, number: int) -> Block:
        return Block(number, tuple(self.trials[trial_id] for trial_id in self.running.blocks[number]))

    def block_began(self, number: int, process: str = "") -> Block:
        """A block is about to start its processes, from trial process `process`.

        If the block is already running, its trial process was killed: the leg that was running runs again.
        """
        state = self.running.active.get(number)
        if state is None:
            self.running.active[number] = RunningBlock(self.handed_out.pop(number, 0.0) or self.clock(), process)
        elif state.process != process:
            state.process = process
            self._cut(number, "its trial process was killed")
        self.running.save()
        return self._block(number)

    def block(self, number: int) -> Block:
        """A block already handed out."""
        return self._block(number)

    def next_group(self, number: int) -> Group:
        """The block's next group of processes; without legs where nothing is left or the sweep is to stop.

        `group_placed` may still change which legs run.
        """
        state = self.running.active.get(number)
        legs = self._left(number)
        nodes = (self.placements.get(self.legs[legs[0]][0].trial_id) or []) if legs else []
        return Group(
            tuple(legs),
            tuple(dict.fromkeys(place.node for place in nodes)),
            bool(state and state.group == _NOBODY),
            self.legs[legs[0]][1].arm.packages if legs else {},
        )

    def admit(self, number: int, need: Need, wanted: Sequence[str] = (), fleet: Sequence[Node] | None = None) -> Answer:
        """Whether a block may start its processes now, and on which nodes: see `admission.Queue.ask`."""
        if self.running.draining:
            self.queue.release(number)
            return Stop()
        settings = {trial.setting_id for trial in self._block(number).trials}
        answer = self.queue.ask(number, settings, need, wanted, fleet)
        state = self.running.active.get(number)
        if state is not None and isinstance(answer, Wait):
            state.began = self.clock()  # its processes are not requested yet
        if state is not None and isinstance(answer, Granted):
            state.need, state.granted = need, list(answer.node_ids)
            self.running.save()
        return answer

    def not_started(self, number: int) -> None:
        """The processes of a block did not start on the nodes that it was granted."""
        if (state := self.running.active.get(number)) is not None:
            state.need, state.granted, state.node_ids, state.placement = None, [], [], None
            self.running.save()
        self.queue.not_started(number)

    def give_up(self, number: int, leg_id: str) -> None:
        """Run no more of this leg's trial: the block's processes died before they began it."""
        state, trial_id = self.running.active[number], self.legs[leg_id][0].trial_id
        if trial_id not in state.given_up:
            state.given_up.append(trial_id)
        self.running.save()

    def refuse(self, number: int, leg_ids: Sequence[str], failure: Failure) -> None:
        """These legs of the block cannot be run: no environment could be made for them."""
        state = self.running.active[number]
        state.group = ""
        for leg_id in leg_ids:
            self.record("", leg_id, replace(failure, started_at=time.time()))
        state.group = _NOBODY  # workers of earlier groups are ignored from now on

    def _legs_left(self, trial: Trial) -> list[str]:
        return [leg.leg_id for leg in trial.legs if leg.leg_id not in self.done]

    def _left(self, number: int) -> list[str]:
        """The ids of the legs of the block's next group."""
        state = self.running.active.get(number)
        if self.running.draining:
            return []
        trials = [t for t in self._block(number).trials if state is None or t.trial_id not in state.given_up]
        left = [legs for trial in trials if (legs := self._legs_left(trial))]
        together = [leg_id for legs in left for leg_id in self._of_one_environment(legs, left[0][0])]
        return together if trials and trials[0].isolation == "shared" else together[:1]

    def _of_one_environment(self, legs: Sequence[str], like: str) -> Iterable[str]:
        """The leading legs of `legs` that ask for the same versions as leg `like`."""
        packages = self.legs[like][1].arm.packages
        return itertools.takewhile(lambda leg_id: self.legs[leg_id][1].arm.packages == packages, legs)

    def group_placed(
        self,
        number: int,
        group: str,
        reports: Sequence[RankReport],
        packages: Mapping[str, str] | None = None,
    ) -> list[str]:
        """A group's processes are up; `reports` has one entry a rank, in order. Returns the ids of the legs to run.

        A trial of the block begins anew if it has legs left and outcomes from another place: those are withdrawn, and
        all its legs run here. From now on every other group is ignored for this block. `packages`: the versions in the
        group's environment. If a trial that begins anew needs other versions first, this group runs nothing and the
        next one has them.
        """
        state = self.running.active[number]
        if state.group != group and not self.running.draining:
            placement = tuple(report.place for report in reports)
            try:
                for trial in self._block(number).trials:
                    if trial.trial_id not in state.given_up and self._has_moved(trial, placement):
                        self._begin_anew(trial.trial_id, placement)
            except (OSError, StorageError) as error:
                self.running.stop_for(error)
                return []
            state.group, state.placement, state.leg_id = group, placement, ""
            state.node_ids = sorted({report.node_id for report in reports})
            self.queue.placed(number, state.node_ids)
            self.running.save()
        left = self._left(number)
        fits = packages is None or not left or self.legs[left[0]][1].arm.packages == packages
        return left if fits else []

    def _has_moved(self, trial: Trial, placement: Placement) -> bool:
        """Whether a trial that is not complete has outcomes from other machines than these."""
        if trial.trial_id not in self.placements or not self._legs_left(trial):
            return False
        earlier = self.placements[trial.trial_id]
        return earlier is None or machines(earlier) != machines(placement)

    def _begin_anew(self, trial_id: str, placement: Placement) -> None:
        """Withdraw a trial's outcomes, because its next ones will come from other machines."""
        trial = self.trials[trial_id]
        before, now = _node_names(self.placements.pop(trial_id)), _node_names(placement)
        why = f"measured on {before}, but the trial's other legs run on {now}"
        withdrawn = self.ledger.withdraw([leg.leg_id for leg in trial.legs if leg.leg_id in self.done], why)
        self.done -= {row["leg_id"] for row in withdrawn}
        self.unlogged.pop(trial_id, None)
        self.attempts[trial_id] = self.attempts.get(trial_id, 0) + 1
        self._note(
            trial,
            f"begins anew on {now}; {counted(len(withdrawn), 'leg')} measured on {before} no longer count",
            begins_anew=True,
        )

    def _note(self, trial: Trial, text: str, *, begins_anew: bool = False) -> None:
        """Add a note about a trial to the events."""
        anew = BeginsAnew(trial.setting_id, trial.repeat, self.attempts[trial.trial_id]) if begins_anew else None
        self.events.append(Note(f"{trial.label} | repeat {trial.repeat}: {text}", anew))

    def largest_batches(self, number: int) -> LargestBatches:
        """The largest batches known for a block's settings."""
        settings = [trial.setting_id for trial in self._block(number).trials]
        return {setting_id: self.batches[setting_id] for setting_id in settings if setting_id in self.batches}

    def choose_steps(self, setting_id: str, pilot: Pilot | None = None) -> StepChoice | None:
        """How many steps the legs of a setting measure (`StepChoices.of`); the same answer for every caller."""
        choice = self.steps.of(setting_id, pilot)
        if choice is not None and setting_id not in self.running.steps:
            self.running.steps[setting_id] = choice
            self.running.save()
        return choice

    def drain(self) -> None:
        """Begin no further leg: running legs finish, and the rest waits for the same command again."""
        self.running.draining = True
        self.running.save()

    def begin(self, process_group: str, leg_id: str, node: str = "") -> bool:
        """A process group is about to run this leg. Returns whether it may: not once the sweep is to stop, nor where
        the leg's block has ended or moved on to another group."""
        state = self._running_block(leg_id)
        if self.running.draining or state is None or state.group not in ("", process_group):
            return False
        if (state.group, state.leg_id) != (process_group, leg_id):
            now = self.clock()
            if not state.leg_began and not state.last_cut:
                state.start_seconds = now - state.began
                self.pace.add_start(state.start_seconds)
            state.group, state.leg_id, state.node = process_group, leg_id, node
            state.leg_began, state.leg_started_at = now, time.time()
            self.running.save()
        return True

    def _running_block(self, leg_id: str) -> RunningBlock | None:
        """The running block that holds a leg's trial; None where the trial does not run."""
        trial_id = self.legs[leg_id][0].trial_id
        for number, state in self.running.active.items():
            if trial_id in self.running.blocks[number]:
                return state
        return None

    def unfinished(self, process_group: str) -> Unfinished:
        """What is known about a process group that ended early."""
        for state in self.running.active.values():
            if state.group == process_group:
                open_leg = state.leg_id if state.leg_id not in self.done else ""
                seconds = self.clock() - state.leg_began if open_leg else 0.0
                return Unfinished(open_leg or None, seconds, state.leg_started_at, tuple(state.node_ids))
        return Unfinished()

    def cut(self, number: int, group: str, why: str) -> None:
        """A group's processes were lost through no fault of a leg: the running leg starts again from its beginning."""
        state = self.running.active[number]
        if state.last_cut != group:
            state.last_cut = group
            self._cut(number, why)
        self.running.save()

    def _cut(self, number: int, why: str) -> None:
        state, trial = self.running.active[number], self._block(number).first
        if left := self._left(number):
            trial = self.legs[left[0]][0]
        if state.leg_id and state.leg_id not in self.done:
            trial, leg = self.legs[state.leg_id]
            why += f"; {leg.arm_name} of round {leg.round} runs again"
        self._note(trial, why)
        state.group, state.placement, state.node_ids, state.leg_id = _NOBODY, None, [], ""
        state.need, state.granted = None, []
        self.queue.release(number)

    def record(self, process_group: str, leg_id: str, outcome: Outcome) -> None:
        """Write a leg's outcome; it is durable when this returns. A leg keeps its first outcome. Outcomes are ignored
        from a group that its block has replaced, and from a block that has ended."""
        trial, leg = self.legs[leg_id]
        state = self._running_block(leg_id)
        if leg_id in self.done or state is None or state.group not in ("", process_group):
            return
        outcome = replace(
            _without_secrets(outcome),
            process_group=process_group,
            attempt=self.attempts.get(trial.trial_id, 0),
            placement=state.placement,
            start_seconds=state.start_seconds,
        )
        arrived = time.monotonic()
        try:
            if not self.running.wrote:
                self.ledger.write_space(self.space_yaml)  # rewritten: later commands may ask for more repeats
            row = self.ledger.add(self.plan.sweep, self.plan.space, trial, leg, outcome)
        except (OSError, StorageError) as error:  # the leg then has no outcome, and runs again when there is room
            self.running.stop_for(error)
            state.leg_id = ""
            return
        if (waited := time.monotonic() - arrived) > _SLOW_WRITE_SECONDS:
            self.events.append(Note(f"a row waited {waited:.0f} s to be written to {self.ledger.folder}"))
        if not self.running.wrote:
            self.running.wrote = True
            self.running.save()
        self.done.add(leg_id)
        state.start_seconds = None
        if state.placement is not None:
            self.placements[trial.trial_id] = state.placement
        note_batch(self.batches, row)
        self.steps.note(row)
        self.unlogged.setdefault(trial.trial_id, []).append(row)
        now = self.clock()
        seconds = now - (state.leg_began if state.leg_id == leg_id else now)
        self.events.append(replace(leg_event(row), seconds=seconds, trial_seconds=now - state.began))
        if isinstance(outcome, Measurement) and not leg.profiled:
            self.pace.add_leg(trial.setting_id, leg.arm_name, seconds)
        if not self._legs_left(trial):
            state.began = now  # the block's next trial begins
        state.leg_id = ""

    def block_ended(self, number: int) -> list[str]:
        """A block's processes have ended: MLflow may be written now. Returns the ids of trials with legs left."""
        if self.running.active.pop(number, None) is not None:
            self.running.save()
        self.queue.release(number)
        trials = self._block(number).trials
        self.mlflow.log([row for trial in trials for row in self.unlogged.pop(trial.trial_id, [])])
        return [trial.trial_id for trial in trials if self._legs_left(trial)]

    def news(self, since: int, incarnation: int = 0) -> News:
        """Events since number `since` of this `incarnation` of the recorder (all events, if the recorder has restarted
        since), what runs now, what is waited for, and the `trouble` that prevents writing."""
        now = self.clock()
        running = [
            RunningLeg(
                trial.label, leg.arm_name, trial.repeat, leg.round, now - state.leg_began, state.node, leg.profiled
            )
            for state in self.running.active.values()
            if state.leg_id and state.leg_id not in self.done
            for trial, leg in [self.legs[state.leg_id]]
        ]
        return News(
            self.running.incarnation,
            self.events[since if incarnation == self.running.incarnation else 0 :],
            running,
            self.queue.missed(),
            self._num_active(),
            self.running.trouble,
        )

    def _num_active(self) -> int:
        """The blocks that run; once the sweep is to stop, only those whose processes are up: others begin no leg."""
        blocks = self.running.active.values()
        return sum(not self.running.draining or block.placement is not None or bool(block.leg_id) for block in blocks)

    def finish(self) -> list[str]:
        """Write the legs that MLflow lacks. Returns MLflow's errors, if any; `publishing` handles the rest."""
        self.mlflow.log([row for rows in self.unlogged.values() for row in rows])
        self.unlogged.clear()
        return self.mlflow.finish()


def _without_secrets(outcome: Outcome) -> Outcome:
    """The outcome with the environment's secrets removed from a failure's message."""
    return replace(outcome, message=without_secrets(outcome.message)) if isinstance(outcome, Failure) else outcome


def _node_names(placement: Placement | None) -> str:
    return " and ".join(dict.fromkeys(place.node for place in placement)) if placement else "a node not known"
