"""Where a cluster's nodes are: in which rack, block and NVLink domain; and which of them a run takes, in
which order.

Pure: what is known of nodes goes in, names of nodes come out. Who reads labels and files is in ``planner/``
and ``cluster/``.
"""
