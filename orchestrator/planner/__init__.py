"""The plan asked about configurations and past runs: the layout of `layout=auto`, sweeps, budgets,
calibration.

Here files are read and configurations composed, for a plan that does neither.
"""
