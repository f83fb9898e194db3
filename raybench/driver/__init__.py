"""The run: Ray Tune and its trials, the recorder of their legs, and what the terminal shows meanwhile."""
