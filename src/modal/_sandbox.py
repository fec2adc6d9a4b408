"""Sandboxes: containers that run whatever they are told, one command at a time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Iterator, Optional, Sequence, Union

from modal._object import Object
from modal._planned import not_yet, planned
from modal.stream_type import StreamType

if TYPE_CHECKING:
    import builtins

    from modal._app import App
    from modal._bucket import CloudBucketMount
    from modal._client import Client
    from modal._image import Image
    from modal._network_file_system import NetworkFileSystem
    from modal._proxy import Proxy
    from modal._secret import Secret
    from modal._tunnel import Tunnel
    from modal._volume import Volume
    from modal.container_process import ContainerProcess
    from modal.file_io import FileIO, FileWatchEvent, FileWatchEventType
    from modal.gpu import GPU_T
    from modal.io_streams import StreamReader, StreamWriter


class Sandbox(Object):
    """A `Sandbox` object lets you interact with a running sandbox, similar to Python's asyncio.subprocess.Process."""

    _kind = "sandbox"
    _made_by = "create"

    @planned
    @staticmethod
    def create(
        *entrypoint_args: str,
        app: Optional[App] = None,  # Optionally associate the sandbox with an app
        environment_name: Optional[str] = None,  # Optionally override the default environment
        image: Optional[Image] = None,  # The image to run as the container for the sandbox.
        secrets: Sequence[Secret] = (),  # Environment variables to inject into the sandbox.
        network_file_systems: dict[Union[str, os.PathLike[str]], NetworkFileSystem] = {},
        timeout: Optional[int] = None,  # Maximum execution time of the sandbox in seconds.
        workdir: Optional[str] = None,  # Working directory of the sandbox.
        gpu: GPU_T = None,
        cloud: Optional[str] = None,
        region: Optional[Union[str, Sequence[str]]] = None,  # Region or regions to run the sandbox on.
        # Specify, in fractional CPU cores, how many CPU cores to request.
        # Or, pass (request, limit) to additionally specify a hard limit in fractional CPU cores.
        # CPU throttling will prevent a container from exceeding its specified limit.
        cpu: Optional[Union[float, tuple[float, float]]] = None,
        # Specify, in MiB, a memory request which is the minimum memory required.
        # Or, pass (request, limit) to additionally specify a hard limit in MiB.
        memory: Optional[Union[int, tuple[int, int]]] = None,
        block_network: bool = False,  # Whether to block network access
        # List of CIDRs the sandbox is allowed to access. If None, all CIDRs are allowed.
        cidr_allowlist: Optional[Sequence[str]] = None,
        # Mount points for Modal Volumes and CloudBucketMounts
        volumes: dict[Union[str, os.PathLike[str]], Union[Volume, CloudBucketMount]] = {},
        pty_info: Any = None,
        # List of ports to tunnel into the sandbox. Encrypted ports are tunneled with TLS.
        encrypted_ports: Sequence[int] = [],
        # List of ports to tunnel into the sandbox without encryption.
        unencrypted_ports: Sequence[int] = [],
        # Reference to a Modal Proxy to use in front of this Sandbox.
        proxy: Optional[Proxy] = None,
        # Enable memory snapshots.
        _experimental_enable_snapshot: bool = False,
        _experimental_scheduler_placement: Any = None,
        client: Optional[Client] = None,
    ) -> Sandbox:
        """Create a new Sandbox to run untrusted, arbitrary code."""
        raise AssertionError

    @planned
    @staticmethod
    def from_id(sandbox_id: str, client: Optional[Client] = None) -> Sandbox:
        """Construct a Sandbox from an id and look up the Sandbox result."""
        raise AssertionError

    @planned
    def set_tags(self, tags: dict[str, str], *, client: Optional[Client] = None) -> None:
        """Set tags (key-value pairs) on the Sandbox. Tags can be used to filter results in `Sandbox.list`."""

    @planned
    def snapshot_filesystem(self, timeout: int = 55) -> Image:
        """Snapshot the filesystem of the Sandbox."""
        raise AssertionError

    @planned
    def wait(self, raise_on_termination: bool = True) -> None:
        """Wait for the Sandbox to finish running."""

    @planned
    def tunnels(self, timeout: int = 50) -> dict[int, Tunnel]:
        """Get tunnel metadata for the sandbox, by container port."""
        raise AssertionError

    @planned
    def terminate(self) -> None:
        """Terminate Sandbox execution. This is a no-op if the Sandbox has already finished running."""

    @planned
    def poll(self) -> Optional[int]:
        """Check if the Sandbox has finished running: its exit code, or None."""

    @planned
    def exec(
        self,
        *cmds: str,
        pty_info: Any = None,  # Deprecated: internal use only
        stdout: StreamType = StreamType.PIPE,
        stderr: StreamType = StreamType.PIPE,
        timeout: Optional[int] = None,
        workdir: Optional[str] = None,
        secrets: Sequence[Secret] = (),
        # Encode output as text.
        text: bool = True,
        # Control line-buffered output.
        # -1 means unbuffered, 1 means line-buffered (only available if `text=True`).
        bufsize: int = -1,
        # Internal option to set terminal size and metadata
        _pty_info: Any = None,
    ) -> ContainerProcess[Any]:
        """Execute a command in the Sandbox and return a ContainerProcess handle."""
        raise AssertionError

    @planned
    def open(self, path: str, mode: str = "r") -> FileIO[Any]:
        """Open a file in the Sandbox and return a FileIO handle."""
        raise AssertionError

    @planned
    def ls(self, path: str) -> builtins.list[str]:
        """List the contents of a directory in the Sandbox."""
        raise AssertionError

    @planned
    def mkdir(self, path: str, parents: bool = False) -> None:
        """Create a new directory in the Sandbox."""

    @planned
    def rm(self, path: str, recursive: bool = False) -> None:
        """Remove a file or directory in the Sandbox."""

    @planned
    def watch(
        self,
        path: str,
        filter: Optional[builtins.list[FileWatchEventType]] = None,
        recursive: Optional[bool] = None,
        timeout: Optional[int] = None,
    ) -> Iterator[FileWatchEvent]:
        """Watch a file or directory in the Sandbox for changes."""
        raise AssertionError

    @property
    def stdout(self) -> StreamReader[str]:
        """StreamReader for the sandbox's stdout stream."""
        raise not_yet("modal.Sandbox")

    @property
    def stderr(self) -> StreamReader[str]:
        """StreamReader for the sandbox's stderr stream."""
        raise not_yet("modal.Sandbox")

    @property
    def stdin(self) -> StreamWriter:
        """StreamWriter for the sandbox's stdin stream."""
        raise not_yet("modal.Sandbox")

    @property
    def returncode(self) -> Optional[int]:
        """Return code of the sandbox process if it has finished running, else `None`."""
        raise not_yet("modal.Sandbox")

    @planned
    @staticmethod
    def list(
        *, app_id: Optional[str] = None, tags: Optional[dict[str, str]] = None, client: Optional[Client] = None
    ) -> Iterator[Sandbox]:
        """List all sandboxes for the current environment or app, that have at least these tags."""
        raise AssertionError

    @planned
    def _experimental_snapshot(self) -> SandboxSnapshot:
        """Save memory and files, and end the sandbox."""
        raise AssertionError

    @planned
    @staticmethod
    def _experimental_from_snapshot(snapshot: SandboxSnapshot, client: Optional[Client] = None) -> Sandbox:
        """A sandbox that goes on where the snapshot was made."""
        raise AssertionError


class SandboxSnapshot(Object):
    """A `SandboxSnapshot` object lets you interact with a stored Sandbox snapshot."""

    _kind = "sandbox snapshot"

    @planned
    @staticmethod
    def from_id(sandbox_snapshot_id: str, client: Optional[Client] = None) -> SandboxSnapshot:
        """Construct a `SandboxSnapshot` object from a sandbox snapshot ID."""
        raise AssertionError
