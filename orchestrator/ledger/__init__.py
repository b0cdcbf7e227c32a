"""The record of a run: the journal, and what is derived from it.

`journal` is the truth, `meter` and `bill` make hours and dollars of it, `incidents` what broke and what that
cost; `run_directory` is the folder they lie in, `mlflow` a projection for others to compare.
"""
