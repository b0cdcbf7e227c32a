"""The only room that imports Ray: nodes held through one placement group, and an agent on each.

`group` is the worker group that the supervisor asks, `attempt` makes one story of what the nodes say,
`session` attaches to Ray or starts one, `warm` keeps one.
"""
