"""System calls of containers: an allow list. Unknown calls look absent (ENOSYS), dangerous ones are refused (EPERM).

Left out on purpose: what changes namespaces, mounts, modules, clocks, keys or the kernel itself, and what has been a
way to break out more than once while ordinary programs do without (bpf, io_uring, userfaultfd, AF_ALG, AF_VSOCK).
"""

from __future__ import annotations

import functools
import platform

EPERM, ENOSYS = 1, 38

ALLOWED = """
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chroot clock_getres
clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat
fcntl fdatasync fgetxattr file_getattr file_setattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync
ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_mempolicy get_robust_list
get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid
getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt
gettid gettimeofday getuid getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl
ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link
linkat listen listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack mbind
membarrier memfd_create memfd_secret migrate_pages mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap
move_pages mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget
msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause
pidfd_getfd pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv
preadv2 prlimit64 process_madvise process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat
rename renameat renameat2 restart_syscall riscv_flush_icache rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
semtimedop sendfile sendmmsg sendmsg sendto set_mempolicy set_mempolicy_home_node set_robust_list set_thread_area
set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid
setrlimit setsid setsockopt setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd
signalfd4 socketpair splice stat statfs statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee
tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
timerfd_settime times tkill truncate umask uname unlink unlinkat uretprobe utime utimensat utimes vfork vmsplice wait4
waitid write writev
""".split()  # noqa: SIM905 - a list of words to read

REFUSED = """
acct add_key bpf clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick
get_kernel_syms init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load
kexec_load keyctl listmount lookup_dcookie mount mount_setattr move_mount nfsservctl open_by_handle_at open_tree
open_tree_attr perf_event_open pivot_root query_module quotactl quotactl_fd reboot request_key setdomainname
sethostname setns settimeofday swapoff swapon syslog umount umount2 unshare uselib userfaultfd ustat vhangup
""".split()  # noqa: SIM905 - a list of words to read

NAMESPACE_FLAGS = 0x7E020000  # every CLONE_NEW* of clone
PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
AF_ALG, AF_VSOCK = 38, 40

ARCHITECTURES = {
    "x86_64": "SCMP_ARCH_X86_64",
    "aarch64": "SCMP_ARCH_AARCH64",
    "riscv64": "SCMP_ARCH_RISCV64",
    "ppc64le": "SCMP_ARCH_PPC64LE",
    "s390x": "SCMP_ARCH_S390X",
}


def _when(index: int, value: int, operator: str, second: int = 0) -> dict[str, object]:
    condition = {"index": index, "value": value, "op": f"SCMP_CMP_{operator}"}
    return {**condition, "valueTwo": second} if second or operator == "MASKED_EQ" else condition


def _allow(names: list[str], *conditions: dict[str, object]) -> dict[str, object]:
    rule: dict[str, object] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    return {**rule, "args": list(conditions)} if conditions else rule


def _errno(names: list[str], number: int) -> dict[str, object]:
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": number}


@functools.cache
def profile(machine: str = "") -> dict[str, object] | None:
    """The `linux.seccomp` object of an OCI configuration; None on a machine whose system calls we do not know."""
    architecture = ARCHITECTURES.get(machine or platform.machine())
    if architecture is None:
        return None
    # s390x passes clone's flags second.
    # clone3 is left to the default, ENOSYS: its flags are behind a pointer, and libraries then use clone.
    flags = 1 if architecture == "SCMP_ARCH_S390X" else 0
    rules = [
        _allow(ALLOWED),
        _errno(REFUSED, EPERM),
        _allow(["clone"], _when(flags, NAMESPACE_FLAGS, "MASKED_EQ", 0)),
        *(_allow(["personality"], _when(0, value, "EQ")) for value in PERSONALITIES),
        _allow(["socket"], _when(0, AF_ALG, "LT")),
        _allow(["socket"], _when(0, AF_ALG + 1, "EQ")),
        _allow(["socket"], _when(0, AF_VSOCK, "GT")),
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "architectures": [architecture],
        "syscalls": rules,
    }
