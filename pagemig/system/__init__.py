"""The machine as a person holds it: nodes, processes, files, calls, and what ``/proc`` shows."""
