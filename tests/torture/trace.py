"""Reads what strace recorded of a daemon: what it did to the files of its queue, what it said and what it heard.

Time is the number of a line. A call that strace wrote in two pieces has two times, else they are the same.
"""

import collections
import re

FILES = "openat,pwrite64,pwritev,pwritev2,fdatasync,fsync,ftruncate,fallocate,unlink,unlinkat,rename,renameat,renameat2,mkdir"
TALK = "write,writev,sendto,sendmsg,recvfrom,recvmsg,read"

# All data, in hexadecimal, and what each descriptor is. The descriptors of pipes and libraries are passed over below.
RECORD = ["-D", "-q", "-f", "-yy", "-xx", "-s", "9999999", "--seccomp-bpf", "-e", "trace=%s,%s" % (FILES, TALK)]

# An operation on a file or on the directory: what, file's name or number, and the rest by kind.
Op = collections.namedtuple("Op", "begin end kind what more")
# Something said or heard: `said` begins to count when the call begins, `heard` when it ends.
Talk = collections.namedtuple("Talk", "time kind connection data")

DESCRIPTOR = r"\d+<((?:[^<>]|<->)*)>(?:\(deleted\))?"
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Unknown(Exception):
    """A call that this reader does not know how to replay."""


def text_of(hexed):
    return bytes.fromhex(hexed.replace("\\x", ""))


def path_of(hexed):
    return text_of(hexed).decode(errors="replace") if hexed.startswith("\\x") else hexed


def calls(lines):
    """(begin, end, name, arguments, result) of every finished call, by its beginning."""
    begun, found = {}, []
    for number, line in enumerate(lines):
        thread, _, rest = line.rstrip("\n").partition(" ")
        rest = rest.lstrip()
        if rest.endswith("<unfinished ...>"):
            begun[thread] = (number, rest[:-len("<unfinished ...>")])
            continue
        begin = number
        if rest.startswith("<... "):
            if thread not in begun:
                continue
            begin, head = begun.pop(thread)
            rest = head + rest.partition(" resumed>")[2]
        call = re.match(r"(\w+)\((.*)\) += (-?\d+|\?)", rest, re.S)
        if call:
            name, arguments, result = call.groups()
            found.append((begin, number, name, arguments.rstrip(), result, "(INJECTED)" in rest[-40:]))
    # One that a kill cut off may have been made or not; only of those that talk it does not matter.
    for begin, rest in begun.values():
        name = rest.partition("(")[0]
        if name in FILES.split(",") and "queue.db" in path_of_first(rest):
            raise Unknown("cut off by the kill: %s" % rest[:60])
    return sorted(found)


def path_of_first(rest):
    found = re.search(r"<((?:\\x..)+)>", rest)
    return path_of(found[1]) if found else ""


class Recording:
    """All of it, in order."""

    def __init__(self, lines, queue, present=()):
        """`present`: names of files that are there before."""
        self.queue = queue
        self.names = {}  # as the running system sees them: name -> number of the file
        self.files = 0
        self.ops, self.talks = [], []
        for name in present:
            self.names[name] = self.files
            self.files += 1
        for begin, end, name, arguments, result, injected in calls(lines):
            if result == "?" or int(result) < 0:
                continue
            if name in TALK.split(","):
                self._talk(begin, end, name, arguments)
            else:
                self._file(begin, end, name, arguments, int(result), injected)

    # --- files

    def _name(self, path):
        """The name in the queue directory; '' for the directory, None for what lies elsewhere or does not matter."""
        path = path.removesuffix(" (deleted)")
        if path == self.queue:
            return ""
        if not path.startswith(self.queue + "/"):
            return None
        name = path[len(self.queue) + 1:]
        # The index of the log lives in shared memory and is made anew from the log.
        return None if name.endswith("-shm") or name in ("lock", "reserve", "selftest") else name

    def _add(self, begin, end, kind, what, more=None):
        self.ops.append(Op(begin, end, kind, what, more))

    def _file(self, begin, end, name, arguments, result, injected):
        if name == "openat":
            path = self._name(path_of(STRING.search(arguments)[1]))
            if path and "O_CREAT" in arguments and path not in self.names:
                self.names[path] = self.files
                self._add(begin, end, "link", path, self.files)
                self.files += 1
            if path and "O_TRUNC" in arguments:
                self._add(begin, end, "size", self.names[path], 0)
            return
        if name in ("unlink", "rename"):
            paths = [self._name(path_of(found)) for found in STRING.findall(arguments)]
            if paths[0] is None:
                return
            number = self.names.pop(paths[0])
            if name == "rename":
                self.names[paths[1]] = number
            self._add(begin, end, name, paths[0], paths[1] if name == "rename" else None)
            return
        found = re.match(DESCRIPTOR, arguments)
        path = self._name(path_of(found[1])) if found else None
        if path is None or path and path not in self.names:
            return  # elsewhere, or removed already
        rest = arguments[found.end():]
        if name in ("fsync", "fdatasync"):
            if not injected:
                self._add(begin, end, "sync", self.names[path] if path else None)
        elif name == "pwrite64":
            data, offset = re.fullmatch(r', "((?:\\x..)*)", \d+, (\d+)', rest).groups()
            self._add(begin, end, "write", self.names[path], (int(offset), text_of(data)[:result]))
        elif name == "ftruncate":
            self._add(begin, end, "size", self.names[path], int(rest.removeprefix(", ")))
        # Blocks behind the end change nothing that can be read.
        elif name != "fallocate" or not rest.startswith(", FALLOC_FL_KEEP_SIZE, "):
            raise Unknown("%s%s of %s" % (name, rest[:40], path))

    # --- talk

    def _talk(self, begin, end, name, arguments):
        found = re.match(r"\d+<((?:TCP|TCPv6|UNIX-STREAM):\[[^\]]*\](?:[^<>]|<->)*)>", arguments)
        if not found:
            return
        data = b"".join(text_of(piece) for piece in STRING.findall(arguments[found.end():]))
        heard = name in ("recvfrom", "recvmsg", "read")
        if data and not (heard and "MSG_PEEK" in arguments):
            self.talks.append(Talk(end if heard else begin, "heard" if heard else "said", found[1], data))
