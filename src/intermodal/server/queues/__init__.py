"""Queues: `partition` decides what goes where without I/O, `queues` carries it out."""
