"""Word of a run to people who do not look at it: by webhook, mail or a command.

`words` makes words of a journal's records, `texts` makes what each receiver is sent, `channels` sends it,
`outbox` limits and tries again, `follower` is the process that does all of it, beside the run and never on
its path.
"""
