"""Prompts in, training mixture out: harvest, sift, mix."""
