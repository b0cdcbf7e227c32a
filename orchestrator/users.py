"""What a user is called, wherever one is named: by the system's own list of them, whatever the environment
says."""

from __future__ import annotations

import os
import pwd


def known_name(uid: int) -> str | None:
    """Returns the name of a user; None for one without, as a container may have it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def user_name(uid: int | None = None) -> str:
    """Returns the name of a user, by whose rights this process works unless told, or ``uid 1234`` for one
    without."""
    uid = os.geteuid() if uid is None else uid
    return known_name(uid) or f"uid {uid}"


def user_with_number(uid: int) -> str:
    """Returns ``alice (uid 1000)``, by which a file's owner is known on machines that name users
    differently."""
    name = known_name(uid)
    return f"uid {uid}" if name is None else f"{name} (uid {uid})"
