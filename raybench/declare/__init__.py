"""What a user declares: the space, its settings, arms and protocol, read and checked. No ray and no torch here."""
