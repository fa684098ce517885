"""Cache folders of edge relays that are damaged, or can't be used."""

import os
import random
import shutil
import socket

from edge_rig import call, mount_tmpfs

NOBODY = 65534
INTEGRITY, FAILED = 6, 1


def damage(block, chance, way=None):
    """Damages a file in one of several ways."""
    size = block.stat().st_size
    way = chance.randrange(5) if way is None else way % 5
    if size == 0:
        return
    with open(block, "r+b") as file:
        if way == 0:
            file.truncate(chance.randrange(size))
        elif way == 1:
            file.truncate(0)
        elif way == 2:
            file.seek(0, os.SEEK_END)
            file.write(b"x")
        else:
            # In the head, or in the payload.
            file.seek(chance.randrange(min(size, 200)) if way == 3 else chance.randrange(size))
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1 << chance.randrange(8)]))


def each_block(change):
    def prepare(site):
        chance = random.Random(3)
        for number, block in enumerate(site.blocks()):
            change(block, number, chance)
    return prepare


def newer_block(block, number, chance):
    with open(block, "r+b") as file:
        file.seek(8)
        file.write((2).to_bytes(4, "little"))


def to_directory(block, number, chance):
    block.unlink()
    block.mkdir()


def to_full_directory(block, number, chance):
    if number == 1:
        to_directory(block, number, chance)
        (block / "notes.txt").write_text("mine")


def to_link(block, number, chance):
    block.rename(block.with_suffix(".aside"))
    block.symlink_to(block.with_suffix(".aside"))


def to_pipe(block, number, chance):
    block.unlink()
    os.mkfifo(block)


def to_socket(block, number, chance):
    block.unlink()
    # Its path may be too long for a socket's address.
    folder = os.open(block.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(f"/proc/self/fd/{folder}/s")
    os.close(folder)
    (block.parent / "s").rename(block)


def swapped(block, number, chance):
    if number % 2:
        shutil.copyfile(block, block.with_name(block.name.replace(f"-{number:x}.", f"-{number - 1:x}.")))


def other_owner(site):
    os.chown(site.cache, NOBODY, NOBODY)


def unreadable(site):
    os.chown(site.cache, NOBODY, NOBODY)
    os.chown(site.cache / "gantry-cache", NOBODY, NOBODY)
    for block in site.blocks():
        block.chmod(0o600)


def read_only(site):
    pristine = site.cache.with_name(site.cache.name + "-copy")
    site.cache.rename(pristine)
    mount_tmpfs(site.cache, "64m")
    shutil.copytree(pristine, site.cache, dirs_exist_ok=True)
    site.cache.chmod(0o700)
    call("mount", "-o", "remount,ro", site.cache)


def no_folder(site):
    shutil.rmtree(site.cache)
    site.cache.write_text("")


# Name, preparation, the words of the one line in the log, and the exit codes of `gantry cache verify` before and after two
# downloads, and of `gantry cache purge`.
FOLDERS = [
    ("intact", lambda site: None, None, (0, 0, 0)),
    ("an empty marker", lambda site: (site.cache / "gantry-cache").write_text(""), None, (0, 0, 0)),
    ("another user's", other_owner, f"it belongs to user {NOBODY}, and this process runs as user 0", (0, 0, 0)),
    ("others may write", lambda site: site.cache.chmod(0o777), "other users may write to it (mode 777)", (0, 0, 0)),
    ("read-only", read_only, "it is read-only", (0, 0, FAILED)),
    ("newer format", lambda site: (site.cache / "gantry-cache").write_text("gantry cache 99\n"),
     "it was written by another version of Gantry (gantry cache 99)", (FAILED, FAILED, FAILED)),
    ("foreign marker", lambda site: (site.cache / "gantry-cache").write_bytes(bytes(range(200, 256))),
     "it was written by another version of Gantry", (FAILED, FAILED, FAILED)),
    ("a file", no_folder, "it is not a directory", (FAILED, FAILED, FAILED)),
    ("damaged", each_block(lambda block, number, chance: damage(block, chance, number)), "is damaged", (INTEGRITY, 0, 0)),
    ("truncated", each_block(lambda block, number, chance: damage(block, chance, 0)),
     "is damaged", (INTEGRITY, 0, 0)),
    ("newer blocks", each_block(newer_block), "of another version", (INTEGRITY, 0, 0)),
    ("swapped blocks", each_block(swapped), "it belongs to another object or position", (INTEGRITY, 0, 0)),
    ("directories", each_block(to_directory), "it can't be read: is a directory", (INTEGRITY, 0, 0)),
    ("a full directory", each_block(to_full_directory), "it can't be read: is a directory", (INTEGRITY, INTEGRITY, 0)),
    ("links", each_block(to_link), "it can't be read", (INTEGRITY, 0, 0)),
    ("pipes", each_block(to_pipe), "it is truncated", (INTEGRITY, 0, 0)),
    ("sockets", each_block(to_socket), "it can't be read", (INTEGRITY, 0, 0)),
    ("unreadable blocks", unreadable, "it can't be read: permission denied", (0, 0, 0)),
]
