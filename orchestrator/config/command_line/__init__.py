"""A command as it would be typed for another launcher, in words of ours.

:mod:`~.forms` tells which kind of command it is, :mod:`~.child` has a launcher's flags read by that
launcher's own parser, :mod:`~.words` writes what comes of both as KEY=VALUE.
"""
