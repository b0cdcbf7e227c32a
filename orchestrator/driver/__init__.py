"""One run, wired, and clusters that stay. Nothing here prints: observers are told.

`run` goes from a plan to the journal's last line, `resume` takes a run up again, `preflight` refuses what
would fail before it costs anything, `warm_cluster` keeps Ray and zygotes.
"""
