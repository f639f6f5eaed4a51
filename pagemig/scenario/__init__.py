"""Scenarios: the language of the recordings, its runner, and the model beside recorded kernels."""
