"""A directory that a web server can offer as Playwright's download host: Debian's Chromium in its archive."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

LIBC = ("libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "ld-linux", "libresolv.so", "libutil.so")
LAUNCHER = """#!/bin/sh
here="$(dirname "$(readlink -f "$0")")"
LD_LIBRARY_PATH="$here/lib" exec "$here/chromium" --ignore-certificate-errors "$@"
"""  # browsers go to github.com by TLS alone, and this one does not know who vouches for the stand-in


def archive_chromium(folder: Path) -> Path:
    """`folder/mirror` with `chromium-linux.zip` and `ffmpeg-linux.zip`. Takes a minute and Debian's mirror."""
    root = folder / "root"
    debian = ["mmdebstrap", "--variant=extract", "--include=chromium", "bookworm", root]
    subprocess.run(debian, check=True, capture_output=True, timeout=600)
    mirror = folder / "mirror"
    mirror.mkdir()
    with zipfile.ZipFile(mirror / "chromium-linux.zip", "w") as archive:
        own = root / "usr/lib/chromium"
        for path in sorted(own.rglob("*")):
            if path.is_file():
                archive.write(path, f"chrome-linux/{path.relative_to(own)}")
        libraries = root / "usr/lib/x86_64-linux-gnu"
        for path in sorted([*libraries.glob("*.so*"), *libraries.glob("pulseaudio/*.so*")]):
            if path.exists() and not path.name.startswith(LIBC):
                archive.write(path.resolve(), f"chrome-linux/lib/{path.name}")
        launcher = zipfile.ZipInfo("chrome-linux/chrome")
        launcher.external_attr = 0o100755 << 16
        archive.writestr(launcher, LAUNCHER)
    with zipfile.ZipFile(mirror / "ffmpeg-linux.zip", "w") as archive:
        archive.writestr("ffmpeg-linux", "#!/bin/sh\n")
    shutil.rmtree(root)
    return mirror
