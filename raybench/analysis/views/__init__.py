"""Further questions to the same legs and comparisons: over settings, rungs, versions, two sweeps; costs and causes."""
