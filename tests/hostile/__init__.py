"""Input that is malformed or meant to harm."""
