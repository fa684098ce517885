#!/usr/bin/env python3
"""Runs a command that cannot outlive its caller.

    run.py [--grace SECONDS] [--remove PATH]... -- COMMAND [ARG]...

Standard input must be a pipe whose writing end the caller keeps open. This
process becomes COMMAND (same pid, own process group, empty standard input). A
watchdog process waits until COMMAND exits or the pipe closes; the kernel closes
it even if the caller is killed by SIGKILL. The watchdog then ends the whole group
(SIGTERM, then SIGKILL after a grace of 3 s; a grace of 0 sends SIGKILL at once),
unmounts the file systems below every PATH, and removes it.
"""

import os
import select
import signal
import sys


def main():
    grace_s, remove, command = parse(sys.argv[1:])

    os.setpgid(0, 0)
    pid = os.getpid()
    command_fd = os.pidfd_open(pid)
    middle = os.fork()
    if middle == 0:
        # Forks twice, so that the command does not get an unknown child process.
        if os.fork() == 0:
            watch(pid, command_fd, grace_s, remove)
        os._exit(0)
    os.waitpid(middle, 0)

    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"run.py: {command[0]}: {error.strerror}")


def parse(args):
    """The grace in seconds, the paths to remove, and the command. Parsed by hand: importing argparse would be slow."""
    grace_s, remove = 3.0, []
    while len(args) > 1 and args[0] != "--":
        option, value, *args = args
        if option == "--grace":
            grace_s = float(value)
        elif option == "--remove":
            remove.append(value)
        else:
            sys.exit(f"run.py: unknown option {option}\n{__doc__}")
    if len(args) < 2:
        sys.exit(f"run.py: no command given\n{__doc__}")
    return grace_s, remove, args[1:]


def watch(pid, command_fd, grace_s, remove):
    """Waits for the end of the command or of the caller, then cleans up. Never returns."""
    try:
        os.setsid()
        for sig in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(sig, signal.SIG_IGN)
        # A reader of the command's output must see end of file when the command ends.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)

        wait_any(command_fd, 0)
        if grace_s > 0:
            signal_group(pid, signal.SIGTERM)
            # A stopped process handles SIGTERM only after SIGCONT.
            signal_group(pid, signal.SIGCONT)
            wait_any(command_fd, timeout_s=grace_s)
        signal_group(pid, signal.SIGKILL)
        wait_any(command_fd)
        for path in remove:
            unmount_below(path)
            if os.path.isdir(path) and not os.path.islink(path):
                import shutil
                shutil.rmtree(path, ignore_errors=True)
            elif os.path.lexists(path):
                os.unlink(path)
    finally:
        os._exit(0)


def unmount_below(path):
    """Unmounts what this process sees below a folder. A mounted folder can't be removed."""
    with open("/proc/self/mounts", "rb") as mounts:
        # A space in a path is written as \\040.
        points = [line.split()[1].decode("unicode_escape").encode("latin-1") for line in mounts]
    below = os.fsencode(os.path.realpath(path)) + b"/"
    for point in reversed(points):
        if point.startswith(below):
            os.spawnvp(os.P_WAIT, "umount", ["umount", "-l", point])


def wait_any(*fds, timeout_s=None):
    """Waits until the process of a pidfd ends or the other end of a pipe closes."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    while True:
        events = poll.poll(None if timeout_s is None else timeout_s * 1000)
        if not events:
            return
        for fd, _ in events:
            # Data on the pipe is ignored; only its closing matters.
            if fd != 0 or not os.read(0, 4096):
                return


def signal_group(pid, sig):
    try:
        os.killpg(pid, sig)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    main()
