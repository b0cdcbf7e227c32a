"""Replaces globals of the script that executes this: a word without "=" is a file of settings, and
--key=value is one setting, with the type that it has."""

import sys
from ast import literal_eval

for arg in sys.argv[1:]:
    if "=" not in arg:
        assert not arg.startswith("--")
        print(f"Overriding config with {arg}")
        exec(open(arg).read())  # noqa: SIM115
    else:
        key, val = arg.removeprefix("--").split("=", 1)
        if key not in globals():
            raise ValueError(f"Unknown config key: {key}")
        try:
            attempt = literal_eval(val)
        except (SyntaxError, ValueError):
            attempt = val
        assert type(attempt) is type(globals()[key]), f"{key} has another type"
        globals()[key] = attempt
