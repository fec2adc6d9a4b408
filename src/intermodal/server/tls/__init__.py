"""Certificates: the operator's, read again when their files change, or self-made ones of the state directory."""
