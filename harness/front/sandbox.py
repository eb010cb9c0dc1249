"""Locks a process up, as far as the kernel can: it reads the system and one folder, and reaches nothing else.

Landlock (https://docs.kernel.org/userspace-api/landlock.html) keeps it from files and from other processes;
seccomp from new processes, sockets, System V shared memory and keyrings, and from what changes a file's mode,
time or attributes. Neither needs privileges. ctypes alone: no package can take the lock away again.
"""
import ctypes
import os
import platform
import struct

READ = 1 << 2 | 1 << 3  # landlock: read files, read folders
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # bits that an ABI knows; later ones 16
EPERM, ENOSYS, ALLOW, CLONE3 = 0x50001, 0x50026, 0x7FFF0000, 435
# fork vfork execve execveat | socket socketpair connect bind | shm* sem* msg* mq_open | add_key request_key
# keyctl ptrace process_vm_* | kill tkill tgkill rt_*sigqueueinfo | *chmod* *chown* | *utime* | *xattr |
# userfaultfd bpf perf_event_open unshare setns mount open_by_handle_at sched_setaffinity truncate
X86_64 = (57, 58, 59, 322, 41, 53, 42, 49, 29, 30, 31, 67, 64, 65, 66, 220, 68, 69, 70, 71, 240, 248, 249,
          250, 101, 310, 311, 62, 200, 234, 129, 297, 90, 91, 268, 92, 93, 94, 260, 132, 235, 261, 280, 188,
          189, 190, 197, 198, 199, 323, 321, 298, 272, 308, 165, 304, 203, 76)
AARCH64 = (221, 281, 198, 199, 203, 200, 194, 195, 196, 197, 190, 191, 192, 193, 186, 187, 188, 189, 180,
           217, 218, 219, 117, 270, 271, 129, 130, 131, 138, 240, 52, 53, 54, 55, 88, 5, 6, 7, 14, 15, 16,
           282, 280, 241, 97, 268, 40, 265, 122, 45)
# pidfd_send_signal io_uring_* pidfd_open pidfd_getfd fchmodat2 setxattrat removexattrat file_setattr
COMMON = (424, 425, 426, 427, 434, 438, 452, 463, 466, 469)
MACHINES = {"x86_64": (0xC000003E, 56, X86_64), "aarch64": (0xC00000B7, 220, AARCH64)}


def lock_up(folders: list[str], devices: list[str]) -> str:
    """Leave this process nothing but reading the folders, and using the devices; return by what means.

    'landlock7+seccomp', 'landlock7', 'seccomp' or 'none': the number is landlock's ABI. Call it before there
    is a second thread: it holds for this one and those that it starts.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if platform.system() != "Linux" or libc.prctl(38, 1, 0, 0, 0):  # no new privileges
        return "none"
    abi = landlock(libc, folders, devices)
    names = [f"landlock{abi}"] * bool(abi) + ["seccomp"] * seccomp(libc)
    return "+".join(names) or "none"


def landlock(libc: ctypes.CDLL, folders: list[str], devices: list[str]) -> int:
    """Allow reading the folders and using the devices, and nothing else; return the ABI, 0 for none."""
    abi = libc.syscall(444, None, 0, 1)
    if abi < 1:
        return 0
    rights = (1 << FILE_RIGHTS.get(abi, 16)) - 1
    asked = struct.pack("<QQQ", rights, 3, 3)[:8 if abi < 4 else 16 if abi < 6 else 24]  # TCP, signals
    ruleset = libc.syscall(444, asked, len(asked), 0)
    if ruleset < 0:
        return 0
    device_rights = rights & (1 << 1 | 1 << 2 | 1 << 15)  # write, read, ioctl
    for path, allowed in [*((path, READ) for path in folders), *((path, device_rights) for path in devices)]:
        if not os.path.exists(path):
            continue
        place = os.open(path, os.O_PATH)  # a file has no folder to be read
        allowed &= rights if os.path.isdir(path) else ~(1 << 3)
        if libc.syscall(445, ruleset, 1, struct.pack("<Qi", allowed, place), 0):
            raise OSError(ctypes.get_errno(), f"landlock: {path}")
        os.close(place)
    done = libc.syscall(446, ruleset, 0)
    os.close(ruleset)
    return 0 if done else abi


def seccomp(libc: ctypes.CDLL) -> bool:
    """Refuse the calls above, and clone but for threads; tell whether the kernel does so."""
    if platform.machine() not in MACHINES:
        return False
    audit, clone, refused = MACHINES[platform.machine()]
    refused += COMMON
    # (code, jump if true, jump if false, value), as BPF has them; a jump counts from the line behind
    load, equal, at_least, bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    lines = [(load, 0, 0, 4), (equal, 1, 0, audit), (answer, 0, 0, EPERM), (load, 0, 0, 0),
             (at_least, 0, 1, 0x40000000), (answer, 0, 0, EPERM),  # x32, the other numbers of x86_64
             (equal, 0, 1, CLONE3), (answer, 0, 0, ENOSYS),  # its flags lie in memory: threads take clone
             *((equal, len(refused) - i + 2, 0, number) for i, number in enumerate(refused)),
             (equal, 0, 3, clone), (load, 0, 0, 16), (bit, 1, 0, 0x10000),  # a thread's clone
             (answer, 0, 0, EPERM), (answer, 0, 0, ALLOW)]
    code = b"".join(struct.pack("<HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(lines), ctypes.addressof(buffer))
    return libc.prctl(22, 2, program, 0, 0) == 0
