"""Server and worker, worker and runner.

The worker holds one connection to the server. Requests go both ways on it. Each container has one
stream that the server opens with ContainerStart and on which the frames between server and runner
travel unchanged: RunInputs down; RunnerReady, RunnerFailed and RunOutputs up. The worker rewrites
the stream number and nothing else, and keeps RunOutputs until the server has acknowledged them.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from modal._protocol.message import Message, Record
from modal._protocol.messages.call import CallFailure
from modal._protocol.messages.function import FunctionSpec, Resources, VolumeMount
from modal._protocol.messages.image import ImageConfig
from modal._protocol.messages.log import LogEntry

# Exit codes of a runner that ends by itself.
EXIT_INIT_FAILED = 70  # the module or an enter hook raised; told to the server before
EXIT_LOST = 71  # the worker ended the connection in the middle
EXIT_CANCELLED = 72  # an input was cancelled: threads cannot be interrupted, so the container ends
EXIT_ABANDONED = 73  # no worker came back
EXIT_INTERRUPTED = 74  # SIGINT while it served (a preemption): its inputs run again elsewhere

# In a container's output, before what another input prints: MARK, the input's id (or nothing), NUL.
OUTPUT_MARK = b"\x00\x1bintermodal:"


class RunnerSpec(Record):
    """All that a runner needs to become ready. Reaches it in the worker's WELCOME (RunnerStart)."""

    container_id: str
    app_id: str
    app_name: str
    function_id: str
    function: FunctionSpec
    environment: str = ""
    parameters: bytes = b""  # pickled values of the class parameters
    heartbeat: float = 15.0  # seconds
    start_limit: float = 0.0  # seconds until it must be ready (the worker knows it); 0: there is none


class ContainerSpec(Record):
    """All that a worker needs to start a container."""

    container_id: str
    app_id: str
    function_id: str
    image_id: str
    image: ImageConfig
    mount_ids: List[str]
    env: Dict[str, str]  # secrets and reserved variables included
    volumes: List[VolumeMount]
    resources: Resources
    runner: RunnerSpec
    block_network: bool = False
    restrict_modal_access: bool = False
    runtime: str = ""  # "": the worker's best
    credentials: Dict[str, Dict[str, str]] = {}  # path of a bucket mount -> the variables of its secret
    devices: List[str] = []  # ids of the worker's GPUs that are the container's own
    form: str = ""  # names the version of the function that it runs


class ContainerStart(Message, type=120):
    """Server to worker; opens the container's stream. Ends with ContainerExited, END."""

    spec: ContainerSpec


class ContainerExited(Message, type=121):
    """ITEM from the worker, the container's last. `reason`: exited, out-of-memory, killed, start-failed,
    out-of-disk, stopped, lost (found dead after a restart of the worker)."""

    container_id: str
    exit_code: int
    reason: str
    detail: str = ""
    signal: int = 0


class ContainerValues(Message, type=361):
    """Server to worker: see `call.ValuesMove`. Answered with Done. Faults: not-found."""

    container_id: str
    written: List[str]
    wanted: List[str]


class ContainerKill(Message, type=122):
    """Server to worker, answered with Done at once. SIGINT first when `grace` > 0, SIGKILL after it."""

    container_id: str
    grace: float = 30.0  # seconds
    reason: str = ""


class ContainerReport(Record):
    """One container that a worker has when it (re-)registers."""

    container_id: str
    app_id: str
    function_id: str
    ready: bool
    tokens: List[int] = []  # inputs it holds: assigned, without a final output
    input_ids: List[str] = []
    outputs_sent: int = 0  # RunOutputs frames that the server has acknowledged; the others follow on the stream
    ended: bool = False  # its process is gone; its last outputs and ContainerExited follow on the stream
    devices: List[str] = []  # as in its ContainerSpec
    form: str = ""  # the same
    returned: List[int] = []  # those of `tokens` that were given back unstarted, in frames that follow
    cancelled: List[int] = []  # those of `tokens` that it was told to end
    cancelled_for: List[float] = []  # seconds since then, of each
    ends_in: float = -1.0  # seconds until it is killed, where it was asked to end
    end_reason: str = ""


class WorkerRegister(Message, type=123):
    """Worker to server after WELCOME; answered with WorkerRegistered. Then the worker opens a stream with
    ContainerAdopt for each container that it keeps."""

    worker_id: str
    hostname: str
    cpus: float
    memory: int  # MiB
    gpus: List[Any] = []  # {"id", "kind", "name", "memory" (MiB), "simulated"} of each
    runtimes: List[str] = []  # best first
    containers: List[ContainerReport] = []
    pid: int = 0


class WorkerRegistered(Message, type=124):
    lost: List[str] = []  # containers that the server disowns: the worker ends them
    local_ports: List[int] = []  # see LocalPorts


class ContainerAdopt(Message, type=125):
    """Worker to server: opens the stream of a container that outlived a connection."""

    container_id: str
    outputs_sent: int = -1  # as in its ContainerReport; more may have been acknowledged since that was written


class OutputsAck(Message, type=126):
    """NOTE from the server: these containers' RunOutputs frames up to these counts are safe."""

    container_ids: List[str]
    counts: List[int]


class ContainerLogs(Message, type=127):
    """NOTE from the worker. Entries are numbered within their container, and sent again until LogsAck."""

    app_id: str
    container_id: str
    entries: List[LogEntry]
    first: int = 0  # the number of the first one here, from 1 on


class LogsAck(Message, type=301):
    """NOTE from the server: these containers' log entries up to these numbers are kept."""

    container_ids: List[str]
    counts: List[int]


class WorkerImageBuild(Message, type=128):
    """Server to worker: as ImageBuild, secrets resolved. BuildLog items, then WorkerImageBuilt, END."""

    image_id: str
    recipe: List[Dict[str, Any]]
    secrets: Dict[str, Dict[str, str]] = {}  # secret id -> values, for the build only
    ignore_cache: bool = False
    environment: str = ""  # where names resolve for functions that run in the build


class BuildDevices(Message, type=390):
    """Worker to server: a step of a build needs GPUs. Opens a stream: BuildDevicesWait for as long as all are taken,
    then BuildDevicesGiven. They are the step's until the stream ends. Fault: invalid (the machine has none of these).
    """

    container_id: str
    gpu: List[str]  # alternatives, as "A100-80GB:2"


class BuildDevicesGiven(Message, type=391):
    devices: List[str]  # ids, as in WorkerRegister


class BuildDevicesWait(Message, type=392):
    reason: str


class WorkerImageBuilt(Message, type=129):
    image_id: str
    config: ImageConfig
    cached: bool
    seconds: float


class FileGet(Message, type=130):
    """Worker to server: a file by hash; BlobChunk items, END. Not needed where the store is shared."""

    hash: str


class MountGet(Message, type=131):
    """Worker to server: answered with MountEntries."""

    mount_id: str


class MountEntries(Message, type=132):
    mount_id: str
    entries: List[Any]  # file.FileEntry as JSON


class WorkerStats(Message, type=133):
    """NOTE from the worker every few seconds: liveness, and what containers use."""

    memory_used: int  # MiB
    containers: Dict[str, List[float]]  # id -> [CPU seconds, memory MiB]


class ContainerSignalInput(Message, type=134):
    """Server to worker: cancel one input that the runner runs (SIGUSR1 and the control connection)."""

    container_id: str
    tokens: List[int]


class WorkerStop(Message, type=135):
    """Server to worker: end all containers, clean up and exit. Answered with Done just before the exit."""

    keep_containers: bool = False


class ContainerMarks(Message, type=136):
    """NOTE from the worker: timings of a start."""

    container_id: str
    marks: Dict[str, float]


class RunnerStart(Message, type=150):
    """The worker's WELCOME to a runner."""

    spec: RunnerSpec
    values_dir: str  # directory in the container for large values


class RunnerReady(Message, type=151):
    """ITEM from the runner: imports and enter hooks are done."""

    marks: Dict[str, float] = {}


class RunnerFailed(Message, type=152):
    """ITEM from the runner, before it exits: the module or a hook raised."""

    failure: CallFailure


class RunInputs(Message, type=153):
    """ITEM to the runner. A token names an input within this container's life.

    `batch`: these and the inputs of the next messages, so many in all, are one run of a batched function.
    """

    tokens: List[int]
    input_ids: List[str]
    args: List[bytes]
    blobs: List[str] = []
    methods: List[str] = []
    batch: int = 0


class RunOutputs(Message, type=154):
    """ITEM from the runner, in the order in which it happened. A blob's content lies in the values directory."""

    tokens: List[int]
    statuses: List[int]
    values: List[bytes]
    blobs: List[str] = []
    durations: List[float] = []  # seconds of user code, for the scheduler
    numbers: List[int] = []  # empty, or for each item of a generator its number within its input (else -1)


class RunRecall(Message, type=155):
    """NOTE on the runner's control connection: give back what is not started (RunOutputs with RETURNED)."""

    tokens: List[int]


class RunCancel(Message, type=156):
    """NOTE on the control connection: end these inputs with InputCancellation."""

    tokens: List[int]


class Heartbeat(Message, type=158):
    """NOTE from the runner on the control connection."""

    failure: Optional[CallFailure] = None


class RunnerStops(Message, type=470):
    """ITEM from the runner: its user's code wants no more inputs. It returns what it has not started."""


class RunnerResumed(Message, type=159):
    """ITEM from a runner whose worker was restarted: what it holds. RunOutputs frames from number `first` on follow."""

    first: int
    ready: bool
    tokens: List[int]
    input_ids: List[str]
    app_id: str = ""
    function_id: str = ""
    returned: List[int] = []  # those of `tokens` that it gives back unstarted, in the frames that follow


class RunnerAck(Message, type=160):
    """NOTE to the runner's control connection: RunOutputs frames up to this count are safe with the server."""

    count: int


class RunnerHolds(Message, type=490):
    """ITEM from the runner, the answer to ExpressLeave: the inputs that it has by the express way.

    The outputs of those that are over follow, as RunOutputs.
    """

    tokens: List[int]
    input_ids: List[str]


class ExpressLeave(Message, type=491):
    """NOTE on the control connection: the server may be gone. What came by the express way goes by the worker now."""


class ExpressReady(Message, type=492):
    """NOTE from either side on the express way: it is there. The runner answers when it listens."""


class ExpressAck(Message, type=493):
    """NOTE to the runner on its express way: the outputs of these inputs have reached their clients."""

    tokens: List[int]


class RunPause(Message, type=161):
    """ITEM on the container's stream, passed on as NOTE on the control connection: these generators' consumers
    are behind; they shall yield nothing more until RunResume."""

    tokens: List[int]


class RunResume(Message, type=162):
    """As RunPause: these generators may yield again."""

    tokens: List[int]
