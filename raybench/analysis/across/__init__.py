"""What whole analyses say together: two sweeps, versions of a library, settings measured and not."""
