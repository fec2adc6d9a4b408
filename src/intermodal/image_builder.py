"""Image builder versions: what the bases of a workspace's images contain, under a name that never changes its meaning.

A new version is a new entry; an entry that was released is never edited, because every image on it would be
built again. docs/images.md says what each one has.
"""

from __future__ import annotations

from dataclasses import dataclass

SETTING = "image_builder_version"  # in the server's store, and of the client's configuration


@dataclass(frozen=True)
class BuilderVersion:
    name: str
    packages: tuple[str, ...]  # Python packages that every base with Python carries, exactly
    note: str


# What programs of the time expect of a base besides Python: a web function's framework, an HTTP client, uv.
_WEB_AND_HTTP = (
    "aiohappyeyeballs==2.6.1",
    "aiohttp==3.13.5",
    "aiosignal==1.4.0",
    "annotated-doc==0.0.5",
    "annotated-types==0.7.0",
    "anyio==4.12.1",
    "async-timeout==5.0.1; python_version < '3.11'",
    "attrs==26.1.0",
    "exceptiongroup==1.3.2; python_version < '3.11'",
    "fastapi==0.121.3",
    "frozenlist==1.8.0",
    "idna==3.20",
    "multidict==6.7.1",
    "propcache==0.4.1",
    "pydantic==2.13.5",
    "pydantic-core==2.46.5",
    "python-multipart==0.0.20",
    "starlette==0.49.3",
    "typing-extensions==4.16.0",
    "typing-inspection==0.4.2",
    "uv==0.13.9",
    "yarl==1.22.0",
)

VERSIONS = {
    one.name: one
    for one in (
        BuilderVersion("2026.11", _WEB_AND_HTTP, "Python, pip, a C compiler; fastapi, aiohttp, pydantic and uv"),
        BuilderVersion("2026.11-bare", (), "Python, pip, a C compiler"),
    )
}
DEFAULT = "2026.11"
