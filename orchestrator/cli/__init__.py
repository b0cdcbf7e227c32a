"""Words in, words and pictures out: the command line, the first client of all below.

`args` takes the words apart, `cli` composes, `verbs` call what there is and `show` what it returns;
`complete` answers a shell while a line is typed.
"""
