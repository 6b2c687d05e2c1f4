"""Files: the only place that opens paths."""
