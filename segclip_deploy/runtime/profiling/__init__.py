"""``profile``: every millisecond of an engine on this machine, and the conditions it was taken in."""
