"""The queue that lives: what `fleet/` decides is written down here, then done, and made good after any crash.

`facts` are what can happen to the queue, `books` their fold, `store` keeps both in one database;
`fleet_file` is what people write of pools, teams and classes, `submitting` how a job gets in, `world` all of
it as `fleet/` decides upon it, `reconcile` what has to be done so that the books come true, and `daemon`
does it, with `drivers` and the `nodes_reader` as its hands and eyes.
"""
