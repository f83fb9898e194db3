"""Models by name, and what is done to them before they train: no task and no engine here."""
