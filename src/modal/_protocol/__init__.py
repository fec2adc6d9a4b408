"""The wire between SDK, server, worker and runner. Standard library only.

`frames` cuts a byte stream into frames, `message` gives frames typed contents, `messages`
holds one module of message types per noun, `aio` and `blocking` carry them over sockets.
"""
