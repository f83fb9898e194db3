"""What this machine can detect in a sweep, and how long it takes: from A/A ledgers and from earlier legs here."""
