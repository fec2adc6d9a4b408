"""The options that functions and classes share: checked, and turned into what the server keeps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Sequence, Union

from modal._deprecation import warn_definition
from modal._mounts import remote_path
from modal._named import _Named
from modal._protocol.messages.function import Autoscaler, Resources, Retry, VolumeMount
from modal._retries import retry_spec
from modal._secret import Secret, check_secrets
from modal.exception import InvalidError
from modal.gpu import parse_gpus

if TYPE_CHECKING:
    from modal._image import Image
    from modal.schedule import Schedule

MIN_TIMEOUT, MAX_TIMEOUT, DEFAULT_TIMEOUT = 10, 24 * 3600, 300  # seconds
MIN_WINDOW, MAX_WINDOW, DEFAULT_WINDOW = 2, 20 * 60, 60  # seconds
DEFAULT_CPU = 0.125  # cores
DEFAULT_MEMORY = 128  # MiB
MAX_DISK = 3 * 1024 * 1024  # MiB
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib64", "/usr", "/usr/bin", "/usr/lib", "/etc")  # nothing starts without these
_RESERVED = ("proc", "sys", "dev", ".intermodal")  # first parts of paths where nothing can be mounted
CLOUDS = ("aws", "gcp", "oci", "auto")


class Options(NamedTuple):
    """What a decorator said, after checking."""

    image: Optional[Image]
    secrets: list[Secret]
    volumes: dict[str, Any]  # path -> Volume, CloudBucketMount or NetworkFileSystem
    resources: Resources
    autoscaler: Autoscaler
    retry: Optional[Retry]
    timeout: int
    schedule: Optional[Schedule]
    proxy: Any
    cloud: str
    regions: list[str]
    max_inputs: int
    concurrent_max: int  # of the deprecated allow_concurrent_inputs
    enable_memory_snapshot: bool
    block_network: bool
    restrict_modal_access: bool
    i6pn: bool
    include_source: Optional[bool]
    experimental_options: dict[str, Any]


def whole(value: Any, name: str, low: int, high: Optional[int] = None) -> int:
    """A whole number in bounds. Raises InvalidError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidError(f"{name} must be a whole number, not {value!r}.")
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InvalidError(f"{name} must be {bounds}, not {value}.")
    return value


def check_autoscaler(
    min_containers: Optional[int],
    max_containers: Optional[int],
    buffer_containers: Optional[int],
    scaledown_window: Optional[int],
) -> None:
    """Raise InvalidError where these do not go together; None is "not said"."""
    if min_containers is not None:
        whole(min_containers, "min_containers", 0)
    if max_containers is not None:
        whole(max_containers, "max_containers", 1)
    if buffer_containers is not None:
        whole(buffer_containers, "buffer_containers", 0)
    if scaledown_window is not None:
        whole(scaledown_window, "scaledown_window (seconds)", MIN_WINDOW, MAX_WINDOW)
    if min_containers is not None and max_containers is not None and max_containers < min_containers:
        raise InvalidError(
            f"max_containers ({max_containers}) must not be less than min_containers ({min_containers})."
        )


def _cpu(cpu: Any) -> tuple[float, float]:
    """Request and limit in cores; limit 0 is "not said"."""
    if cpu is None:
        return DEFAULT_CPU, 0.0
    request, limit = _pair(cpu, "cpu", (int, float))
    if limit is not None and limit < request:
        raise InvalidError(f"cpu: the limit ({limit}) must not be less than the request ({request}).")
    return float(request), float(limit or 0.0)


def _memory(memory: Any) -> tuple[int, int]:
    """Request and limit in MiB; limit 0 is "not said"."""
    if memory is None:
        return DEFAULT_MEMORY, 0
    request, limit = _pair(memory, "memory", (int,))
    if limit is not None and limit < request:
        raise InvalidError(f"memory: the limit ({limit} MiB) must not be less than the request ({request} MiB).")
    return request, limit or 0


def _pair(value: Any, name: str, types: tuple[type, ...]) -> tuple[Any, Any]:
    """A number, or a (request, limit) pair of them."""
    many = isinstance(value, (tuple, list))
    parts: tuple[Any, ...] = tuple(value) if many else (value, None)
    if len(parts) != 2:
        raise InvalidError(f"{name} must be a number or a pair (request, limit), not {value!r}.")
    allowed: Any = types
    for part in parts if many else parts[:1]:
        if isinstance(part, bool) or not isinstance(part, allowed):
            kind = "a whole number of MiB" if name == "memory" else "a number"
            raise InvalidError(f"{name} must be {kind} or a pair (request, limit) of them, not {value!r}.")
        if not 0 < part < math.inf:  # false for nan too
            raise InvalidError(f"{name} must be greater than 0{' and finite' if part > 0 else ''}, not {part!r}.")
    return parts


def resources_of(cpu: Any, memory: Any, gpu: Any, ephemeral_disk: Optional[int]) -> Resources:
    """What a container asks for. Raises InvalidError."""
    cpu_request, cpu_limit = _cpu(cpu)
    memory_request, memory_limit = _memory(memory)
    disk = 0 if ephemeral_disk is None else whole(ephemeral_disk, "ephemeral_disk (MiB)", 1, MAX_DISK)
    return Resources(cpu_request, cpu_limit, memory_request, memory_limit, disk, parse_gpus(gpu))


def check_timeout(timeout: Any) -> int:
    """Seconds an attempt may take. Raises InvalidError."""
    if timeout is None:
        return DEFAULT_TIMEOUT
    if isinstance(timeout, float) and timeout.is_integer():
        timeout = int(timeout)
    return whole(timeout, "timeout (seconds)", MIN_TIMEOUT, MAX_TIMEOUT)


def check_mounts(volumes: Any, network_file_systems: Any = None) -> dict[str, Any]:
    """Paths to what is mounted there. Raises InvalidError."""
    from modal._bucket import CloudBucketMount
    from modal._network_file_system import NetworkFileSystem
    from modal._volume import Volume

    mounts: dict[str, Any] = {}
    for name, given, kinds in (
        ("volumes", volumes, (Volume, CloudBucketMount)),
        ("network_file_systems", network_file_systems, (NetworkFileSystem,)),
    ):
        if not given:
            continue
        if not isinstance(given, dict):
            raise InvalidError(f"{name} must be a dict of paths to objects, not {type(given).__name__}.")
        for path, thing in given.items():
            where = remote_path(path, name)
            if where in ("/", "/root", "/tmp", *_SYSTEM) or where.split("/")[1] in _RESERVED:  # noqa: S108 - in a container
                raise InvalidError(f"{name}: nothing can be mounted at {where}. Choose another path, such as /data.")
            if not isinstance(thing, kinds):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise InvalidError(f"{name}: {thing!r} at {where} is no {wanted}.")
            if where in mounts:
                raise InvalidError(f"{name}: two things are mounted at {where}.")
            mounts[where] = thing
    return mounts


async def volume_mounts(client: Any, mounts: dict[str, Any], environment: str = "") -> list[VolumeMount]:
    """Mounts as the server keeps them, their objects hydrated. Names without an environment belong to the given one."""
    for thing in mounts.values():
        if environment and isinstance(thing, _Named) and not thing.is_hydrated and thing._environment is None:
            thing._environment = environment
    return [await mounts[path]._mount(client, path) for path in sorted(mounts)]


def _regions(region: Optional[Union[str, Sequence[str]]]) -> list[str]:
    if region is None:
        return []
    regions: list[Any] = list(region) if isinstance(region, (list, tuple)) else [region]
    if not all(isinstance(one, str) and one for one in regions):
        raise InvalidError(f'region must be a name such as "us-east" or a list of names, not {region!r}.')
    return regions


RENAMED = {
    "keep_warm": "min_containers",
    "concurrency_limit": "max_containers",
    "container_idle_timeout": "scaledown_window",
    "_experimental_buffer_containers": "buffer_containers",
}


def rename_deprecated(options: dict[str, Any]) -> dict[str, Any]:
    """Replace the autoscaler's older names by today's, with a warning each. Raises InvalidError for both at once."""
    for old, new in RENAMED.items():
        value = options.pop(old, None)
        if value is None:
            continue
        if options.get(new) is not None:
            raise InvalidError(f"Use {new}= alone: {old}= is its older name.")
        warn_definition(f"The `{old}` parameter has been renamed to `{new}`.")
        options[new] = value
    return options


def check_options(given: dict[str, Any]) -> Options:
    """The arguments of `@app.function()` or `@app.cls()` by name. Raises InvalidError."""
    from modal._image import Image

    given = rename_deprecated(given)
    image = given["image"]
    if image is not None and not isinstance(image, Image):
        raise InvalidError(f"image must be a modal.Image, not {type(image).__name__}.")
    check_autoscaler(
        given["min_containers"], given["max_containers"], given["buffer_containers"], given["scaledown_window"]
    )
    schedule = given.get("schedule")
    if schedule is not None:
        from modal.schedule import Schedule

        if not isinstance(schedule, Schedule):
            raise InvalidError(f"schedule must be a modal.Period or modal.Cron, not {type(schedule).__name__}.")
    proxy = given["proxy"]
    if proxy is not None:
        from modal._proxy import Proxy

        if not isinstance(proxy, Proxy):
            raise InvalidError(f"proxy must be a modal.Proxy, not {type(proxy).__name__}.")
    cloud = given["cloud"]
    if cloud is not None and (not isinstance(cloud, str) or cloud.lower() not in CLOUDS):
        raise InvalidError(f"cloud must be one of {', '.join(CLOUDS)}, not {cloud!r}.")
    concurrent = given["allow_concurrent_inputs"]
    if concurrent is not None:
        warn_definition(
            "The `allow_concurrent_inputs` parameter is deprecated. "
            "Use the `@modal.concurrent(max_inputs=...)` decorator instead."
        )
        whole(concurrent, "allow_concurrent_inputs", 1)
    if given["allow_cross_region_volumes"] is not None:
        warn_definition("The `allow_cross_region_volumes` parameter no longer has any effect: it is always True.")
    include_source = given["include_source"]
    if include_source is not None and not isinstance(include_source, bool):
        raise InvalidError(f"include_source must be True or False, not {include_source!r}.")
    experimental = given["experimental_options"]
    if experimental is not None and not isinstance(experimental, dict):
        raise InvalidError(f"experimental_options must be a dict, not {type(experimental).__name__}.")
    window = given["scaledown_window"]
    return Options(
        image=image,
        secrets=check_secrets(given["secrets"], "secrets"),
        volumes=check_mounts(given["volumes"], given["network_file_systems"]),
        resources=resources_of(given["cpu"], given["memory"], given["gpu"], given["ephemeral_disk"]),
        autoscaler=Autoscaler(
            given["min_containers"] or 0,
            given["max_containers"] or 0,
            given["buffer_containers"] or 0,
            DEFAULT_WINDOW if window is None else window,
        ),
        retry=retry_spec(given["retries"]),
        timeout=check_timeout(given["timeout"]),
        schedule=schedule,
        proxy=proxy,
        cloud="" if cloud is None else cloud.lower(),
        regions=_regions(given["region"]),
        max_inputs=0 if given["max_inputs"] is None else whole(given["max_inputs"], "max_inputs", 1),
        concurrent_max=concurrent or 0,
        enable_memory_snapshot=bool(given["enable_memory_snapshot"]),
        block_network=bool(given["block_network"]),
        restrict_modal_access=bool(given["restrict_modal_access"]),
        i6pn=bool(given.get("i6pn")),
        include_source=include_source,
        experimental_options=dict(experimental or {}),
    )


def _number_or_pair(request: Any, limit: Any) -> Any:
    return [request, limit] if limit else request


def bind_options(given: dict[str, Any]) -> tuple[dict[str, Any], list[Secret], dict[str, Any]]:
    """The arguments of `Cls.with_options`: overrides for a FunctionBind, secrets, volumes. Raises InvalidError."""
    given = rename_deprecated(given)
    check_autoscaler(None, given["max_containers"], given["buffer_containers"], given["scaledown_window"])
    options: dict[str, Any] = {}
    if given["cpu"] is not None:
        options["cpu"] = _number_or_pair(*_cpu(given["cpu"]))
    if given["memory"] is not None:
        options["memory"] = _number_or_pair(*_memory(given["memory"]))
    if given["gpu"] is not None:
        options["gpu"] = parse_gpus(given["gpu"])
    retry = retry_spec(given["retries"])
    if retry is not None:
        options["retries"] = {name: getattr(retry, name) for name in retry.__fields__}
    for name in ("max_containers", "buffer_containers", "scaledown_window"):
        if given[name] is not None:
            options[name] = given[name]
    if given["timeout"] is not None:
        options["timeout"] = check_timeout(given["timeout"])
    if given["allow_concurrent_inputs"] is not None:
        warn_definition("`allow_concurrent_inputs` is deprecated. Use `.with_concurrency(max_inputs=...)` instead.")
        options["concurrent_max"] = whole(given["allow_concurrent_inputs"], "allow_concurrent_inputs", 1)
        options["concurrent_target"] = 0
    return options, check_secrets(given["secrets"], "Cls.with_options"), check_mounts(given["volumes"])
