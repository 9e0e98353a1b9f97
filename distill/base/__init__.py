"""What every room may import: rows, artifacts, the runner, chat text, answers. Light libraries only."""
