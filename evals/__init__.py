"""Questions, scores, statistics and the report."""
