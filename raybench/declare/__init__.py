"""What a user declares: the space, its settings, arms and protocol, read and validated. No ray and no torch here."""
