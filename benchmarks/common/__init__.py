"""What the benchmarks share: clocks, reference loops, machines, rows of the table."""
