"""State that a later worker reads, processes told apart, and the directory of a container."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from intermodal.worker.containers.overlay import remove_tree
from intermodal.worker.containers.places import Places
from intermodal.worker.containers.processes import Process, children_of, parent_of
from intermodal.worker.containers.running import remove_directory
from intermodal.worker.containers.runtimes import start_errors
from intermodal.worker.containers.state import State


def state(monitor: Process) -> State:
    return State("ta-1", "slot", "10.0.0.2", monitor, "crun", True, "", "/w")


def test_state_survives_and_is_void_when_torn(tmp_path: Path):
    me = Process.of(os.getpid())
    assert me is not None
    path = tmp_path / "state.json"
    state(me).write(path)
    assert State.read(path) == state(me)
    path.write_text(path.read_text()[:-5])
    assert State.read(path) is None
    path.write_text("[]")
    assert State.read(path) is None
    assert State.read(tmp_path / "missing") is None


def test_a_number_given_to_another_process_is_not_taken_for_the_container(tmp_path: Path):
    me = Process.of(os.getpid())
    assert me is not None
    places = Places(tmp_path)
    child = subprocess.Popen(["sleep", "100"])
    try:
        places.pid.write_text(str(child.pid))
        assert state(me).running_pid(places) == child.pid
        places.pid.write_text("1")
        assert state(me).running_pid(places) == 0
        places.pid.write_text("")
        assert state(me).running_pid(places) == 0
        assert state(Process(me.pid, me.started - 1)).running_pid(places) == 0
    finally:
        child.kill()
        child.wait()


def test_processes():
    child = subprocess.Popen(["sleep", "100"])
    process = Process.of(child.pid)
    assert process is not None
    assert process.alive
    assert parent_of(child.pid) == os.getpid()
    assert child.pid in children_of(os.getpid())
    Process(child.pid, process.started + 1).kill()  # another process with this number: not touched
    assert process.alive
    process.kill()
    child.wait()
    assert not process.alive
    assert parent_of(child.pid) == 0


def test_trees_are_removed_whatever_their_modes(tmp_path: Path):
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "c").write_text("")
    (tree / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    (tree / "a" / "b").chmod(0)
    (tree / "a").chmod(0o500)
    remove_tree(tree)
    assert not tree.exists()
    assert (tmp_path / "kept").exists()
    remove_tree(tree)


def test_the_upper_directory_can_stay(tmp_path: Path):
    places = Places(tmp_path / "c")
    for directory in (places.upper, places.work, places.run):
        directory.mkdir(parents=True)
    places.state.write_text("{}")
    remove_directory(places, keep_upper=True)
    assert list(places.directory.iterdir()) == [places.upper]
    remove_directory(places, keep_upper=False)
    assert not places.directory.exists()


def test_what_a_runtime_says(tmp_path: Path):
    log = tmp_path / "log"
    assert start_errors(log) == ""
    log.write_text('{"level": "warning", "msg": "a"}\n')
    assert start_errors(log) == ""
    log.write_text('{"level": "error", "msg": "b "}\n{"level": "warning", "msg": "c"}\n')
    assert start_errors(log) == "b"
    log.write_text("plain words\n")
    assert start_errors(log) == "plain words"
