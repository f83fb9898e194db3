"""Further questions about the same legs and comparisons: settings, rungs, versions, two sweeps, costs, causes."""
