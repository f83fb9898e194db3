"""What this machine lets a sweep see, and how long it takes: from A/A ledgers and from legs that ran here before."""
