"""What others watch: the gauges of runs and of the queue, and the dashboard and alerts that are made of them.

`gauges` says which there are, `figures` and the queue's daemon make their values, `cluster/gauges.py` hands
these to Ray. `panels` and `alerts` say what is asked of them, `grafana` and `files` write that down. Pure:
nothing is started or sent.
"""
