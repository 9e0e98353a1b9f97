"""The embedded default models and the command that makes them."""
