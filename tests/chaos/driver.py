"""The sweep's command with legs that are faked: `python -m tests.chaos.driver space=... sweep=...`."""

from __future__ import annotations

import functools
from pathlib import Path

from raybench import sweep as command
from raybench.cli import run_command
from raybench.driver.messages import Block, GroupConfig, SweepConfig
from tests.chaos import fake


def fit(block: Block, name: str, sweep: SweepConfig, node_ids: tuple[str, ...]) -> str:
    """As `raybench.driver.trial.fit_torch`, on a trainer without torch."""
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from raybench.cluster.ray_private import InOneProcess
    from raybench.driver.trial import trainer_arguments

    class Trainer(InOneProcess, DataParallelTrainer):
        pass

    return str(Trainer(work, **trainer_arguments(block, name, sweep, node_ids)).fit().return_value or "")


def work(config: dict[str, GroupConfig]) -> str:
    """What each process of a group runs."""
    import os

    import ray.train

    from raybench.driver.trial import run_group
    from raybench.machine.installed import own_versions
    from raybench.machine.places import RankPlace, RankReport
    from raybench.machine.variables import WORKING_TREE

    group, context = config["group"], ray.train.get_context()
    folder = Path(os.environ[WORKING_TREE]) / fake.MEETINGS / group.group
    ranks = fake.Ranks(context.get_world_rank(), context.get_world_size(), folder)

    def report(node: str, node_id: str) -> RankReport:
        return RankReport(RankPlace(node), node_id, versions=own_versions())

    return run_group(group, lambda _trial: ranks, report, fake.run_legs)


def main(argv: list[str]) -> int:
    """Run a sweep of faked legs."""
    from raybench.cluster import connection as cluster
    from raybench.driver import schedule  # in this order: whether Ray wants a token is decided before it is imported

    del cluster
    schedule.run_trials = functools.partial(schedule.run_trials, fit=fit)
    return command.main(argv)


if __name__ == "__main__":
    from tests.chaos.driver import main as _main

    run_command(_main)
