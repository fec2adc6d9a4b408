"""Control groups, on a made-up tree: every layout, whatever this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from intermodal.worker.containers.cgroups import CgroupTree, Mounts
from intermodal.worker.containers.launch import Limits

V1 = """\
30 23 0:26 / {root}/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 23 0:27 / {root}/memory rw,relatime - cgroup cgroup rw,memory
32 23 0:28 / {root}/pids rw,relatime - cgroup cgroup rw,pids
33 23 0:29 / {root}/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
V2 = "40 23 0:30 / {root}/unified rw,relatime - cgroup2 cgroup2 rw\n"


def mounts(tmp_path: Path, *texts: str) -> Mounts:
    info = tmp_path / "mountinfo"
    info.write_text("".join(texts).format(root=tmp_path) + "1 0 0:1 / / rw - ext4 /dev/x rw\n")
    return Mounts.read(str(info))


def test_modes(tmp_path: Path):
    assert mounts(tmp_path).mode == "none"
    assert mounts(tmp_path, V1).mode == "v1"
    assert mounts(tmp_path, V2).mode == "v2"
    assert mounts(tmp_path, V1, V2).mode == "hybrid"


def test_v1_limits(tmp_path: Path):
    for name in ("cpu", "memory", "pids", "systemd"):
        (tmp_path / name).mkdir()
    tree = CgroupTree("ours", mounts(tmp_path, V1))
    tree.open()
    assert not tree.problem
    group = tree.make("one")
    assert [Path(name).relative_to(tmp_path).as_posix() for name in group.entrances] == [
        "cpu/ours/one/tasks",
        "memory/ours/one/tasks",
        "pids/ours/one/tasks",
    ]
    (tmp_path / "memory/ours/one/memory.memsw.limit_in_bytes").write_text("")
    group.limit(Limits(cpu=1.5, cpu_shares=0.5, memory=100, pids=10))
    values = {path.name: path.read_text() for path in tmp_path.glob("*/ours/one/*")}
    assert values == {
        "cpu.shares": "512",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "150000",
        "memory.limit_in_bytes": str(100 << 20),
        "memory.memsw.limit_in_bytes": str(100 << 20),
        "pids.max": "13",
    }
    assert tree.names() == {"one"}


def v2(tmp_path: Path) -> CgroupTree:
    root = tmp_path / "unified"
    (root / "ours").mkdir(parents=True)
    for directory in (root, root / "ours"):
        (directory / "cgroup.controllers").write_text("cpu io memory pids\n")
        (directory / "cgroup.subtree_control").write_text("cpu memory pids\n")
    return CgroupTree("ours", mounts(tmp_path, V2))


def test_v2_limits(tmp_path: Path):
    tree = v2(tmp_path)
    tree.open()
    group = tree.make("one")
    directory = tmp_path / "unified/ours/one"
    assert group.entrances == [str(directory / "cgroup.procs")]
    (directory / "memory.swap.max").write_text("max")
    group.limit(Limits(cpu=0.25, cpu_shares=1.0, memory=100, pids=10))
    values = {path.name: path.read_text() for path in directory.iterdir()}
    assert values == {
        "cpu.weight": "39",
        "cpu.max": "25000 100000",
        "memory.max": str(100 << 20),
        "memory.swap.max": "0",
        "pids.max": "13",
    }


def test_v2_counters(tmp_path: Path):
    tree = v2(tmp_path)
    tree.open()
    group = tree.make("one")
    assert group.usage() == (0.0, 0.0)
    assert group.out_of_memory() == 0
    directory = tmp_path / "unified/ours/one"
    (directory / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (directory / "memory.current").write_text(str(30 << 20))
    (directory / "memory.stat").write_text(f"anon 5\ninactive_file {10 << 20}\n")
    (directory / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert group.usage() == (2.5, 20.0)
    assert group.out_of_memory() == 2


def test_no_limits_are_written_as_none(tmp_path: Path):
    tree = v2(tmp_path)
    tree.open()
    tree.make("one").limit(Limits(cpu_shares=0.0, pids=0))
    assert {path.name for path in (tmp_path / "unified/ours/one").iterdir()} == {"cpu.weight"}
    assert (tmp_path / "unified/ours/one/cpu.weight").read_text() == "1"


@pytest.mark.parametrize("texts", [(), (V1,)])
def test_a_machine_without_usable_groups_has_a_problem_and_no_limits(tmp_path: Path, texts):
    tree = CgroupTree("ours", mounts(tmp_path, *texts))
    tree.open()
    assert "limits" in tree.problem
    group = tree.make("one")
    assert group.entrances == []
    group.limit(Limits(memory=5))
    assert group.usage() == (0.0, 0.0)
    group.kill()
    group.remove()
    tree.close()


def test_controllers_that_another_hierarchy_has_are_named(tmp_path: Path):
    """As where v1 hierarchies hold them, and only the v2 one can be seen."""
    root = tmp_path / "unified"
    root.mkdir()
    (root / "cgroup.controllers").write_text("hugetlb pids")
    (root / "cgroup.subtree_control").write_text("pids")
    parent = root / "ours"
    parent.mkdir()
    (parent / "cgroup.controllers").write_text("pids")
    (parent / "cgroup.subtree_control").write_text("pids")
    tree = CgroupTree("ours", mounts(tmp_path, V2))
    tree.open()
    assert tree.problem == "this machine's control groups lack cpu, memory: limits of these do not hold"
    group = tree.make("one")
    group.limit(Limits(cpu=1.0, memory=64, pids=10))
    assert (parent / "one/pids.max").read_text() == "13"
