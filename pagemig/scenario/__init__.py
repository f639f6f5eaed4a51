"""Scenarios: the language of the recordings, its runner, and the comparison with recordings."""
