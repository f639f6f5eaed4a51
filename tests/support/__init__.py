"""Helpers of the tests: machines in small, threads that meet, scenarios drawn at random."""

from pathlib import Path

#: The recordings: ``CORPUS / "linux-6.1" / "hand.jsonl.gz"``.
CORPUS = Path(__file__).parents[1] / "corpus"
