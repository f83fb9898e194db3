"""Further questions about the same legs and comparisons: settings, rungs, costs, causes."""
