"""How an answer is found, taken apart and compared; `distill/base/answers.py` is the way in."""
