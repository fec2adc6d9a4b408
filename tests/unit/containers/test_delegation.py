"""Where a worker without root makes its control groups: every situation, on a made-up tree."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal import doctor
from intermodal.worker.containers import delegation
from intermodal.worker.containers.cgroups import CgroupTree, Mounts
from intermodal.worker.containers.delegation import Delegation, User
from intermodal.worker.containers.launch import Limits

SESSION = "/user.slice/user-1000.slice/session-3.scope"
SCOPE = "/user.slice/user-1000.slice/user@1000.service/app.slice/intermodal-worker-1.scope"
ME = User(1000, "me")


class Machine:
    """A v2 tree; `asked` counts what systemd was asked for."""

    def __init__(self, folder: Path, at: str = SESSION) -> None:
        self.unified = folder / "unified"
        self.at = at
        self.asked = 0
        self.closed: set[Path] = set()
        self.refusal = ""
        self.marked: set[Path] = set()
        self.delegated: set[str] = set()  # what systemd says when it is asked
        self.group(SESSION, owned=False)

    def group(self, name: str, owned: bool = True, marked: bool = False, pids: str = "1\n", have: str = "") -> Path:
        directory = self.unified / name.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text(pids)
        (directory / "cgroup.controllers").write_text(have or "cpu memory pids\n")
        (directory / "cgroup.subtree_control").write_text("")
        if not owned:
            self.closed.add(directory)
        if marked:
            self.marked.add(directory)
        return directory

    def ask(self, _user: User) -> str:
        self.asked += 1
        if not self.refusal:
            self.group(SCOPE)
            self.at = SCOPE
        return self.refusal

    def enter(self) -> Delegation:
        says = lambda _user, group: group in self.delegated  # noqa: E731
        return delegation.enter(self.unified, ME, self.ask, lambda: self.at, says)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)

    def access(path: str | Path, _mode: int) -> bool:
        found = Path(path)
        return found.exists() and not {found, found.parent} & made.closed

    def getxattr(path: str | Path, name: str) -> bytes:
        if name == "user.delegate" and Path(path) in made.marked:
            return b"1"
        raise OSError(61, "No data available")

    monkeypatch.setattr(os, "access", access)
    monkeypatch.setattr(os, "getxattr", getxattr)
    monkeypatch.setattr(delegation, "LINGERING", tmp_path / "linger")
    monkeypatch.setattr(delegation, "SYSTEMD", tmp_path)
    monkeypatch.setattr(delegation, "WITHIN", 0.0)
    (tmp_path / "linger").mkdir()
    (tmp_path / "linger/me").touch()
    return made


def test_a_scope_is_asked_for_and_entered(machine: Machine) -> None:
    found = machine.enter()
    base = machine.unified / SCOPE.lstrip("/")
    assert found == Delegation(base) and machine.asked == 1
    assert (base / "worker/cgroup.procs").read_text() == "1"  # nobody stays above groups with limits


def test_a_service_that_was_given_its_group_divides_it(machine: Machine) -> None:
    machine.at = SCOPE.replace("scope", "service")
    base = machine.group(machine.at, marked=True, pids="7\n8\n")
    assert machine.enter() == Delegation(base) and machine.asked == 0
    assert (base / "worker/cgroup.procs").read_text() == "8"  # each by a write of its own, the last is seen here


def test_a_service_whose_group_an_older_systemd_does_not_mark_on_a_made_up_tree(machine: Machine) -> None:
    """Before version 251 the mark is one that only root can read, so systemd is asked."""
    machine.at = SCOPE.replace("scope", "service")
    base = machine.group(machine.at, pids="7\n")
    machine.delegated.add(machine.at)
    assert machine.enter() == Delegation(base) and machine.asked == 0
    assert (base / "worker/cgroup.procs").read_text() == "7"


@pytest.mark.parametrize("marked", [True, False])
def test_a_service_that_is_in_a_group_of_its_own_below_on_a_made_up_tree(machine: Machine, marked: bool) -> None:
    """`DelegateSubgroup=`, or what a service has made of its group before."""
    service = SCOPE.replace("scope", "service")
    base = machine.group(service, marked=marked, pids="")
    machine.delegated.update([] if marked else [service])
    machine.at = f"{service}/supervisor"
    machine.group(machine.at)
    assert machine.enter() == Delegation(base) and machine.asked == 0
    assert not list((base / "worker").iterdir())  # what is below already stays there


def test_what_a_session_is_in_is_not_taken_for_the_users_own(machine: Machine) -> None:
    """The user's systemd itself is delegated to, and everything of the user's is below it."""
    manager = "/user.slice/user-1000.slice/user@1000.service"
    machine.group(manager, marked=True)
    machine.delegated.add(manager)
    machine.at = f"{manager}/app.slice/terminal.scope/tab"
    machine.group(f"{manager}/app.slice/terminal.scope")
    machine.group(machine.at)
    assert machine.enter().base == machine.unified / SCOPE.lstrip("/") and machine.asked == 1


BUSCTL = """#!/bin/sh
# As busctl(1) prints, for one unit of the user's.
name=org.freedesktop.systemd1
case "$*" in
    "--user call $name /org/freedesktop/systemd1 $name.Manager GetUnit s my.service")
        echo 'o "/org/freedesktop/systemd1/unit/my_2eservice"' ;;
    "--user get-property $name /org/freedesktop/systemd1/unit/my_2eservice $name.Service ControlGroup Delegate")
        printf 's "/a.slice/my.service"\nb %s\n' $DELEGATE ;;
    *) echo "Call failed: Unit not loaded." >&2; exit 1 ;;
esac
"""


def test_systemd_is_asked_by_unit_and_group_with_a_stand_in_for_busctl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "busctl").write_text(BUSCTL)
    (tmp_path / "busctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(delegation, "SYSTEMD", tmp_path)
    monkeypatch.setenv("DELEGATE", "true")
    assert delegation.says_delegated(ME, "/a.slice/my.service")
    assert not delegation.says_delegated(ME, "/other.slice/my.service")  # another manager's unit of that name
    assert not delegation.says_delegated(ME, "/a.slice/your.service")
    monkeypatch.setenv("DELEGATE", "false")
    assert not delegation.says_delegated(ME, "/a.slice/my.service")
    monkeypatch.setattr(delegation, "SYSTEMD", tmp_path / "nothing")
    assert not delegation.says_delegated(ME, "/a.slice/my.service")


@pytest.fixture
def kernel() -> Iterator[Path]:
    """The kernel's v2 tree, at a place of its own: where containers were started in this process, the usual one is
    hidden from it."""
    tree = Path(tempfile.mkdtemp(prefix="im-tree-", dir="/tmp"))
    tree.chmod(0o755)  # nobody looks into it
    try:
        subprocess.run(["mount", "-t", "cgroup2", "none", tree], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["umount", tree], check=True)
    finally:
        tree.rmdir()


@pytest.mark.skipif(
    os.geteuid() != 0 or "cgroup2" not in Path("/proc/mounts").read_text(), reason="needs root and a v2 tree"
)
def test_a_delegated_service_on_the_kernels_own_tree_as_systemd_leaves_it(tmp_path: Path, kernel: Path) -> None:
    """A hybrid machine's v2 tree has no controllers but the same rules and marks; here root does what systemd does."""
    group = kernel / f"im-{os.getpid()}.service"
    script = tmp_path / "enter.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\n"
        "from intermodal.worker.containers import delegation\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "found = delegation.enter(Path(sys.argv[1]), delegation.User(65534, 'nobody'), lambda _user: 'asked',\n"
        "    delegation.own_group, lambda _user, _group: False)\n"
        "print(found.base, delegation.own_group())\n"
    )
    group.mkdir()
    try:
        for path in (group, group / "cgroup.procs", group / "cgroup.subtree_control", group / "cgroup.threads"):
            os.chown(path, 65534, 65534)
        for marked in (False, True):
            if marked:
                os.setxattr(group, "user.delegate", b"1")
            ran = subprocess.run(
                ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', group, sys.executable, script, kernel],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            expected = f"{group} /{group.name}/worker" if marked else f"None /{group.name}"
            assert ran.stdout == expected + "\n", ran
    finally:
        for directory in (group / "worker", group):
            if directory.exists():
                directory.rmdir()


def test_a_group_that_others_live_in_is_left_alone(machine: Machine) -> None:
    """As that of a terminal of a desktop, which is the user's, but not to be divided."""
    machine.at = SCOPE.replace("intermodal-worker-1", "terminal")
    base = machine.group(machine.at, pids="7\n8\n")
    assert machine.enter().base == machine.unified / SCOPE.lstrip("/")
    assert not (base / "worker").exists()


def test_a_second_time_it_stays_where_it_is(machine: Machine) -> None:
    first = machine.enter()
    machine.at = SCOPE + "/worker"
    machine.group(machine.at)
    assert machine.enter() == first and machine.asked == 1


def test_who_would_not_outlive_the_login_is_told_so(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "linger/me").unlink()
    found = machine.enter()
    assert found.base is None and machine.asked == 0
    assert "logout" in found.problem and "loginctl enable-linger me" in found.remedy


def test_a_machine_without_systemd(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegation, "SYSTEMD", tmp_path / "nothing")
    found = machine.enter()
    assert found.base is None and machine.asked == 0 and "does not run systemd" in found.problem


def test_what_systemd_says_is_passed_on(machine: Machine) -> None:
    machine.refusal = "Failed to connect to bus: No such file or directory"
    found = machine.enter()
    assert found.base is None and "Failed to connect to bus" in found.problem and "dbus-user-session" in found.remedy


def test_a_scope_that_is_not_ours_or_never_comes_is_not_used(machine: Machine) -> None:
    found = delegation.enter(machine.unified, ME, lambda _user: "", lambda: SESSION, lambda _user, _group: False)
    assert found.base is None and "did not move" in found.problem
    machine.closed.add(machine.unified / SCOPE.lstrip("/"))
    found = machine.enter()
    assert found.base is None and "cannot be written to" in found.problem


def tree(machine: Machine, notes: Path, found: Delegation) -> CgroupTree:
    return CgroupTree("ours", Mounts(machine.unified, {}), found, notes)


def divided(base: Path, controllers: str) -> None:
    """What the kernel does by itself."""
    for directory in (base, base / "ours"):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.controllers").write_text(controllers)
        (directory / "cgroup.subtree_control").write_text(controllers)


def test_limits_hold_below_it(machine: Machine, tmp_path: Path) -> None:
    found = machine.enter()
    assert found.base is not None
    divided(found.base, "cpu memory pids")
    made = tree(machine, tmp_path / "notes", found)
    made.open()
    assert not made.problem and made.enforced == ["cpu", "memory", "pids"]
    group = made.make("one")
    group.limit(Limits(cpu=1.0, memory=64, pids=10))
    assert (found.base / "ours/one/memory.max").read_text() == str(64 << 20)
    assert group.path == f"{SCOPE}/ours/one"
    assert (tmp_path / "notes").read_text() == f"{found.base}/ours\n"


def test_what_systemd_keeps_back_is_named(machine: Machine, tmp_path: Path) -> None:
    found = machine.enter()
    assert found.base is not None
    divided(found.base, "memory pids")
    made = tree(machine, tmp_path / "notes", found)
    made.open()
    assert made.problem == "those that systemd lets users have lack cpu: limits of these do not hold"
    assert made.enforced == ["memory", "pids"]


def test_a_later_worker_finds_the_groups_of_an_earlier_one(machine: Machine, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    first, second = machine.group("/a.scope"), machine.group("/b.scope")
    for base in (first, second):
        divided(base, "memory pids")
    before = tree(machine, notes, Delegation(first))
    before.open()
    before.make("old")
    now = tree(machine, notes, Delegation(second))
    now.open()
    now.make("new")
    assert now.names() == {"old", "new"}
    assert now.find("old").directories == [first / "ours/old"]
    assert now.find("new").directories == [second / "ours/new"]
    later = tree(machine, notes, Delegation(None, "logged out"))
    later.open()  # and one that has no group itself
    assert later.names() == {"old", "new"} and later.enforced == []
    for path in (first / "ours/old", second / "ours/new"):
        path.rmdir()
    for base in (first, second):
        for name in ("controllers", "subtree_control"):
            (base / f"ours/cgroup.{name}").unlink()  # the kernel's own files are no obstacle
    later.close()
    assert not (first / "ours").exists() and not (second / "ours").exists() and not notes.exists()


def test_without_a_group_there_are_no_limits_and_why(machine: Machine, tmp_path: Path) -> None:
    made = tree(machine, tmp_path / "notes", Delegation(None, "no lingering"))
    made.open()
    assert made.problem == "no control groups, so no limits: no lingering"
    assert made.make("one").entrances == [] and made.make("one").path == ""
    assert not (tmp_path / "notes").exists()


@pytest.mark.parametrize(
    "trial, ok, words, remedy",
    [
        ({"cgroups": "v2", "limits": ["cpu", "memory", "pids"]}, True, "limits of cpu, memory and pids hold", ""),
        ({"cgroups": "v2", "limits": ["memory", "pids"]}, False, "no cpu", "Delegate=cpu memory pids"),
        (
            {"cgroups": "v2", "limits": [], "limits_problem": "no lingering", "limits_remedy": "loginctl"},
            False,
            "no lingering",
            "loginctl",
        ),
        ({"cgroups": "hybrid", "limits": []}, False, "hybrid", "unified_cgroup_hierarchy=1"),
    ],
)
def test_the_doctor_says_which_limits_hold(
    monkeypatch: pytest.MonkeyPatch, trial: dict[str, object], ok: bool, words: str, remedy: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    check = doctor._cgroups(trial)
    assert check.ok == ok and words in check.detail and remedy in check.remedy
