"""What a function is, as the SDK tells the server and the server keeps it."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from modal._protocol.message import Message, Record


class Resources(Record):
    """What one container asks for and may use. Zero means "not said"."""

    cpu_request: float = 0.125  # cores
    cpu_limit: float = 0.0  # cores; 0: request + 16
    memory_request: int = 128  # MiB
    memory_limit: int = 0  # MiB; 0: none of its own
    ephemeral_disk: int = 0  # MiB
    gpu: List[str] = []  # in order of preference: "A100-80GB:4"


class Autoscaler(Record):
    min_containers: int = 0
    max_containers: int = 0  # 0: no limit of its own
    buffer_containers: int = 0
    scaledown_window: int = 60  # seconds


class Retry(Record):
    max_retries: int = 0
    backoff_coefficient: float = 1.0
    initial_delay: float = 1.0  # seconds
    max_delay: float = 60.0  # seconds


class VolumeMount(Record):
    path: str
    kind: str  # "volume", "bucket" or "network-file-system"
    object_id: str = ""
    read_only: bool = False
    options: Dict[str, Any] = {}


class WebSpec(Record):
    """A function that is served over HTTP."""

    kind: str  # "asgi", "wsgi", "endpoint", "server"
    method: str = "GET"
    label: str = ""
    custom_domains: List[str] = []
    requires_proxy_auth: bool = False
    docs: bool = False
    port: int = 0
    startup_timeout: float = 5.0


class MethodSpec(Record):
    """One method of a class function."""

    name: str
    is_generator: bool = False
    is_async: bool = False
    web: Optional[WebSpec] = None
    batch_size: int = 0
    batch_wait_ms: int = 0


class FunctionSpec(Record):
    """Everything the server must know to run a function. A class is one function with methods."""

    name: str  # the tag within the app
    module: str  # imported in the container; "" when serialized
    qualname: str  # within the module
    resources: Resources
    autoscaler: Autoscaler
    source: str = "file"  # "file": the module is a script at /root/NAME.py; "package": imported as module; "serialized"
    serialized: bytes = b""  # the cloudpickled function, when source is "serialized"
    is_generator: bool = False
    is_async: bool = False
    is_class: bool = False
    methods: List[MethodSpec] = []
    class_parameters: List[Any] = []  # [name, type name, has default, default as JSON] of each modal.parameter
    image_id: str = ""
    mount_ids: List[str] = []  # files added when the container starts, later ones win
    secret_ids: List[str] = []
    volumes: List[VolumeMount] = []
    retry: Optional[Retry] = None
    timeout: int = 300  # seconds an attempt
    concurrent_max: int = 0  # 0: one input at a time
    concurrent_target: int = 0
    batch_size: int = 0
    batch_wait_ms: int = 0
    max_inputs: int = 0  # inputs a container serves before it ends
    schedule: Any = None  # {"cron": "* * * * *"} or {"period": {"days": 1, …}}
    web: Optional[WebSpec] = None
    restrict_modal_access: bool = False
    block_network: bool = False
    enable_memory_snapshot: bool = False
    cloud: str = ""
    regions: List[str] = []
    proxy_id: str = ""
    i6pn: bool = False
    experimental_options: Dict[str, Any] = {}


class FunctionHandle(Message, type=40):
    """What a client holds of a function that exists on the server."""

    function_id: str
    name: str
    app_id: str
    app_name: str
    is_generator: bool = False
    is_async: bool = False
    is_class: bool = False
    methods: List[MethodSpec] = []
    class_parameters: List[Any] = []
    web_url: str = ""
    method_web_urls: Dict[str, str] = {}


class FunctionLookup(Message, type=41):
    """A deployed function by name; answered with FunctionHandle. Fault: not-found."""

    app_name: str
    name: str
    environment: str = ""


class FunctionBind(Message, type=42):
    """A variant of a function or class with its own pool: parameters, option overrides; answered with FunctionHandle.

    Equal requests give the same function id, from every client.
    """

    function_id: str
    parameters: bytes = b""  # pickled {name: value}, keys sorted
    options: Dict[str, Any] = {}  # of with_options, with_concurrency, with_batching
    secret_ids: List[str] = []
    volumes: List[VolumeMount] = []


class FunctionUpdateAutoscaler(Message, type=43):
    """None keeps the value in force. Answered with Done."""

    function_id: str
    min_containers: Optional[int] = None
    max_containers: Optional[int] = None
    buffer_containers: Optional[int] = None
    scaledown_window: Optional[int] = None


class FunctionStatsGet(Message, type=44):
    function_id: str


class FunctionStats(Message, type=45):
    backlog: int
    num_total_runners: int
