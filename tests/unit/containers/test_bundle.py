"""The OCI configuration and the seccomp profile."""

from __future__ import annotations

import json
from pathlib import Path

from intermodal.worker.containers import bundle, seccomp, seccomp_filter
from intermodal.worker.containers.launch import Bind, Launch, Limits


def launch(**fields: object) -> Launch:
    values = {
        "container_id": "ta-1",
        "layers": [],
        "argv": ["true"],
        "env": {"A": "b"},
        "directory": Path("/d"),
        **fields,
    }
    return Launch(**values)  # type: ignore[arg-type]


def configuration(one: Launch, **fields: object) -> dict:
    values = {
        "seccomp_ready": False,
        "user_namespace": False,
        "share_network": True,
        "cgroup_path": "",
        "memory_by_rlimit": False,
        **fields,
    }
    return json.loads(bundle.configuration(one, Path("/root"), Path("/files"), **values))  # type: ignore[arg-type]


def test_namespaces_follow_the_network():
    kinds = {entry["type"] for entry in configuration(launch())["linux"]["namespaces"]}
    assert kinds == {"pid", "mount", "uts", "ipc", "cgroup"}
    alone = configuration(launch(network="none"), share_network=False)
    assert {"type": "network"} in alone["linux"]["namespaces"]


def test_environment_has_defaults_that_can_be_changed():
    env = configuration(launch(env={"PATH": "/x", "B": "c=d"}))["process"]["env"]
    assert env == ["PATH=/x", "HOME=/root", "B=c=d"]


def test_binds_are_read_only_unless_asked():
    config = configuration(launch(binds=[Bind(Path("/s"), "/t"), Bind(Path("/u"), "/v", read_only=False)]))
    binds = {mount["destination"]: mount for mount in config["mounts"]}
    assert "ro" in binds["/t"]["options"]
    assert "rw" in binds["/v"]["options"]
    assert all("nodev" in binds[target]["options"] for target in ("/t", "/v", "/proc", "/sys", "/dev/shm"))


def test_memory_bounds_shared_memory_and_where_there_are_no_groups_the_heap():
    limited = launch(limits=Limits(memory=64))
    mounts = {mount["destination"]: mount for mount in configuration(limited)["mounts"]}
    assert "size=64m" in mounts["/dev/shm"]["options"]
    kinds = {entry["type"] for entry in configuration(limited)["process"]["rlimits"]}
    assert "RLIMIT_DATA" not in kinds
    limits = configuration(limited, memory_by_rlimit=True)["process"]["rlimits"]
    assert {"type": "RLIMIT_DATA", "soft": 64 << 20, "hard": 64 << 20} in limits


def test_nothing_gains_privileges():
    process = configuration(launch())["process"]
    assert process["noNewPrivileges"] is True
    for kind in ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_MKNOD", "CAP_SYS_PTRACE", "CAP_SYS_MODULE"):
        assert kind not in process["capabilities"]["bounding"]


def test_the_filter_is_given_once_in_one_form_or_the_other():
    assert "seccomp" in configuration(launch())["linux"]
    ready = configuration(launch(), seccomp_ready=True)
    assert "seccomp" not in ready["linux"]
    assert ready["annotations"] == {seccomp_filter.ANNOTATION: seccomp_filter.compiled()}


def test_profile_lists_are_apart_and_sorted():
    allowed, refused = set(seccomp.ALLOWED), set(seccomp.REFUSED)
    assert not allowed & refused
    for special in ("clone", "clone3", "personality", "socket"):
        assert special not in allowed | refused
    assert sorted(allowed) == seccomp.ALLOWED
    assert sorted(refused) == seccomp.REFUSED
    assert {"mount", "bpf", "keyctl", "unshare", "setns", "init_module", "kexec_load"} <= refused


def test_an_unknown_machine_has_no_profile():
    assert seccomp.profile("vax") is None
    assert seccomp.profile("aarch64") is not None


def test_libseccomp_knows_nearly_every_name():
    compiled = seccomp_filter.compiled()
    assert compiled == "" or len(compiled) > 1000
