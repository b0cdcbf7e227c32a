"""Pure arithmetic: a configuration in, a frozen plan out. It reads no file and starts nothing.

`layout` says how ranks share the work, `perf` what one step takes, `forecast` a whole run, `search` chooses a
layout, `sizing` a model; `plan` puts them together, and launch runs exactly what it says.
"""
