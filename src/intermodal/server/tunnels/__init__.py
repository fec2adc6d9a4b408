"""Ports of containers that are reachable from outside: `modal.forward`, later sandboxes' ports."""
