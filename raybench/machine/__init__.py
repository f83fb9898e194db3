"""What a machine is: its hardware, names, versions and peaks. No ray and no torch."""
