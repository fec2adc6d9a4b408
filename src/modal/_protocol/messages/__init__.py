"""The messages, one module per noun. Importing this package registers them all.

Numbers: 1–19 wire, 20–39 calls, 40–59 functions and apps, 60–79 images and files,
80–99 secrets, environments, tokens, 100–119 logs and containers as users see them,
120–149 server and worker, 150–169 worker and runner. A number is never given twice.
"""

from modal._protocol.messages import app, call, container, file, function, image, log, secret, wire, worker

__all__ = ["app", "call", "container", "file", "function", "image", "log", "secret", "wire", "worker"]
