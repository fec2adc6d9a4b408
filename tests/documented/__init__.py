"""Builds the images of the documented example programs: `python -m tests.documented DIRECTORY`."""
