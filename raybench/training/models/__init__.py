"""Models by name and the user's own code, and what is done to models before they train: no engine here."""
