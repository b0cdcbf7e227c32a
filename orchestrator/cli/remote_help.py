"""The page of ``remote``."""

from __future__ import annotations

from orchestrator.cli.verb_page import VerbHelp

REMOTE_HELP = VerbHelp(
    "ADDRESS [FLAGS] VERB ...",
    "Runs any verb on a cluster that is away, as a job of its Ray: the folder that you are in is sent there,"
    " what the verb prints comes back as it is printed, and its exit code is ours. ADDRESS is that of the"
    " cluster's dashboard, and the token is looked for where Ray looks: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH,"
    " ~/.ray/auth_token. Ctrl-C asks the verb to stop, with time to save; a second one leaves it alone, and a"
    " lost connection ends nothing. Runs are in ORCHESTRATOR_RUN_ROOT of the cluster, or ~/runs there, unless"
    " run_root=/… says otherwise.",
    (
        ("--working-dir DIR", "send this folder, without .git, .venv, runs and what .gitignore names"),
        ("--no-upload", "send none: the cluster has what the verb needs"),
        ("--python PATH", "the interpreter there that has this project; python"),
        ("--ca FILE", "certificates to trust, of a cluster that signs its own"),
        ("--no-wait", "hand it in, and print how to look at it later"),
        ("--job NAME", "instead of a verb: look at one that was handed in before"),
        ("--stop", "and ask it to stop"),
    ),
    (
        "http://HOST:8265 run job=tiny_gpt run_name=night-1",
        "http://HOST:8265 logs night-1 --follow",
        "https://ray.example.org --ca ca.crt --no-upload status --json",
    ),
)
