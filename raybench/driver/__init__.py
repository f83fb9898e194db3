"""The run: Ray Tune and its trials, the recorder, and the terminal display of a running sweep."""
