"""Contexts for `tls://` addresses: the server's certificate is always verified."""

from __future__ import annotations

import ssl


def client_context(ca_file: str = "") -> ssl.SSLContext:
    """Trusts the machine's certificate authorities, or those in `ca_file` alone. Raises OSError, ssl.SSLError."""
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])  # the connection begins as HTTP/1.1, also behind a proxy
    return context
