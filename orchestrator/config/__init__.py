"""What the user asked for and what this machine has.

`words` hands Hydra what is text on a command line so that it stays text, `schema` is the typed configuration,
`load` makes it from what Hydra composed, `guard` refuses what would run code from one before Hydra sees it.
OmegaConf and Hydra end here, in the planner and on the command line; the schema knows neither.
"""
