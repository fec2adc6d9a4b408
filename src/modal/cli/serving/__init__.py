"""`modal serve`: an ephemeral app that follows its program's files.

One process (`session`) holds the app, shows its logs and watches the files. Each version of the program is read and
published by a process of its own (`child`, seen from here as `attempt`), so nothing of an older version is left in it.
"""
