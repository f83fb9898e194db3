"""Figures: pure functions from an Analysis (and the steps of a few legs) to a matplotlib Figure."""
