"""Sweeps that are struck at random moments and resumed, until every leg has its one outcome."""
