"""From ledgers to verdicts, on a laptop: no ray, torch or mlflow, here or in anything this imports.

    from raybench.analysis import analyse
    analysis = analyse([Path("mlruns/ledger/cnns/friday")], margin=0.03)
    for comparison in analysis.comparisons: ...

Only trials are samples here: there is no function that takes steps, ranks or rounds for more than that.
"""

from raybench.analysis.analysis import analyse
from raybench.analysis.results import Analysis, ArmSummary, Comparison, FailureCause, GroupSummary, Sensitivity

__all__ = [
    "Analysis",
    "ArmSummary",
    "Comparison",
    "FailureCause",
    "GroupSummary",
    "Sensitivity",
    "analyse",
]
