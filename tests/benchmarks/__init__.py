"""What the benchmarks have in common, by tests: a figure is worth what its measuring is."""
