"""From ledgers to verdicts, on a laptop: neither this package nor its imports need ray, torch or mlflow.

    from raybench.analysis import analyse
    analysis = analyse([Path("mlruns/ledger/cnns/friday")], margin=0.03)
    for comparison in analysis.comparisons: ...

Only trials are samples: no function counts steps, ranks or rounds as samples.
"""

from raybench.analysis.analysis import Analysis, analyse
from raybench.analysis.results import ArmSummary, Comparison, FailureCause, GroupSummary, Sensitivity

__all__ = [
    "Analysis",
    "ArmSummary",
    "Comparison",
    "FailureCause",
    "GroupSummary",
    "Sensitivity",
    "analyse",
]
