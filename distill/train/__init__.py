"""The student's training: DeepSpeed on one or many workers that Ray Train launches. Start with `sft.py`."""
