"""The spine of the pipeline, and the student's training. Start reading at `distill/pipeline.py`."""
