"""Certificates from an ACME authority (RFC 8555), such as Let's Encrypt: obtained when they are needed, and renewed."""
