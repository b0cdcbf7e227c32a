"""The record of a run: the journal, and what is derived from it.

`journal` is the truth. `ledger` folds each record of it once: `meter` makes charges of its time, `bill` their
sum, `incidents` what broke and what of the same charges that cost. `run_directory` is the folder they lie in,
`mlflow` a projection for others to compare.
"""
