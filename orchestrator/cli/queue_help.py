"""The pages of the verbs of the queue."""

from __future__ import annotations

from orchestrator.cli.verb_page import VerbHelp

_JSON = ("--json", "print it as JSON, see docs/reference.md")
QUEUE_HELP = {
    "submit": VerbHelp(
        "[team=NAME] [class=NAME] [deadline=TIME] [key=NAME] [KEY=VALUE ...] [-- COMMAND]",
        "Puts a job into the queue of RUN_ROOT/fleet.yaml, also while no daemon leads. It is planned"
        " first, and"
        " says when it starts and ends, what it costs and whose work is stopped for it. The same key with the"
        " same words is the same job, however often it is submitted; the key is its run's name too.",
        (
            ("--dry-run", "say all that and submit nothing"),
            ("--again", "one of this key that was cancelled or failed goes on, from its newest checkpoint"),
            ("--no-forecast", "do not ask when it starts and ends, which beside thousands takes seconds"),
            ("--multirun, -m", "a job of each of several values, all or none; key= is that of the group"),
            ("team=NAME", "that it counts for; needed where there are several"),
            ("class=NAME", "what an hour of delay costs; usd_per_hour=X says it for this job alone"),
            ("deadline=TIME", "3h, 18:00, 'fri 18:00' or '2026-12-01 18:00'"),
            ("pool=NAME,…", "only those; else all that can have it"),
            ("after=KEY,…", "not before these have finished; KEY may be that of a group"),
            (
                "preemptible=false",
                "never stopped for others, and starts only where it takes nothing from them",
            ),
            ("penalty_usd=X", "what is lost once the deadline is missed"),
            _JSON,
        ),
        (
            "team=nlp job=tiny_gpt deadline='fri 18:00'",
            "--dry-run job=llama3_8b",
            "-m key=rates job=tiny_gpt job.args.lr=1e-3,2e-3",
        ),
    ),
    "queue": VerbHelp(
        "",
        "Lists the jobs that have not ended: who runs where, who waits and why, and when each starts and"
        " ends,"
        " with the range of eight times in ten, as if nobody else came.",
        (("--why KEY", "all that is known of one, in sentences"), _JSON),
        ("", "--why night-1"),
    ),
    "cancel": VerbHelp(
        "KEY",
        "Takes a job, or all of a group, out of the queue. One that runs is asked to save and stop; its run"
        " stays and can be resumed.",
        (_JSON,),
        ("night-1",),
    ),
    "hold": VerbHelp(
        "KEY",
        "Keeps a job, or all of a group, from starting until it is let go; one that runs is asked to save and"
        " leave.",
        (("--off", "let it go"), _JSON),
        ("night-1", "night-1 --off"),
    ),
    "move": VerbHelp(
        "KEY [class=NAME] [deadline=TIME] [pool=NAME,…] [usd_per_hour=X]",
        "Changes what a job in the queue is worth, when it has to be done, or where it may run, and says what"
        " comes of it.",
        (_JSON,),
        ("night-1 class=product deadline=18:00",),
    ),
    "quota": VerbHelp(
        "",
        "Lists what each team has, lends, borrows and waits for, and what it has spent this month.",
        (_JSON,),
        ("",),
    ),
    "reserve": VerbHelp(
        "[team=NAME] [job=KEY] [pool=NAME] [nodes=N] [from=TIME] [until=TIME] [why=TEXT] [name=NAME]",
        "Keeps nodes for a team or a job for a time; until then others have them. Without a word it lists"
        " what"
        " is reserved.",
        (("--off", "end the one of that name"), _JSON),
        ("team=nlp nodes=2 from=18:00 until=20:00 why=demo", "name=r1 --off"),
    ),
    "drain": VerbHelp(
        "HOST",
        "Starts nothing more on a node; what runs there may end.",
        (("--off", "start jobs there again"), _JSON),
        ("node3", "node3 --off"),
    ),
    "dispatch": VerbHelp(
        "",
        "Leads the queue: starts, stops and resumes jobs as it is decided, until it is ended. 'up' starts"
        " it by"
        " itself where there is a RUN_ROOT/fleet.yaml. It may be killed at any time: runs go on, and the"
        " next one"
        " finds them. One leads on a run root.",
        (("--stop", "end the one that leads; runs go on"), ("--json", "with --stop: print which as JSON")),
        ("", "--stop"),
    ),
    "fleet": VerbHelp(
        "page",
        "Serves one page on this machine's loopback, to whoever has its token: what ran on which nodes, what"
        " runs and what is to come, the queue with its ranges, dollars by team, and what is about to change."
        " It is asked for again by itself. Nothing of it is fetched from elsewhere.",
        (
            ("--html FILE", "write it there, and serve nothing"),
            ("--port N", "on this port"),
            ("--browser", "open it"),
        ),
        ("page", "page --html fleet.html"),
    ),
}
