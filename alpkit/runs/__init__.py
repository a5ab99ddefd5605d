"""Everything in a run folder, one module per file: the only place that knows the file names."""
