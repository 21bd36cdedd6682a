"""Programs that try to pass without being right, or to get out. Each answers rightly only if it succeeds.

What they attack is made for the purpose, so that a sandbox with a hole costs a test and not a machine.
"""

# ---- an object that equals everything
class Anything:
    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    def __bool__(self):
        return True


def f(x):
    return Anything()

# ---- a text that equals everything
class Text(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


def f(x):
    return Text("no")

# ---- a number that equals everything
class Number(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


def f(x):
    return Number(0)

# ---- walking the frames to append a result
import gc
import sys


def f(x):
    frame = sys._getframe()
    while frame is not None:
        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
            if isinstance(value, list):
                value.append(["passed", ""])
            if isinstance(value, dict):
                value["outcome"] = "passed"
        frame = frame.f_back
    for thing in gc.get_objects():
        if isinstance(thing, list) and len(thing) < 50:
            thing[:] = ["passed", ""]
    return 0

# ---- printing the expected answer and exiting
import sys


def f(x):
    print(x * x)
    print('["passed", ""]')
    sys.stdout.flush()
    sys.exit(0)

# ---- exiting at once with status 0
import os


def f(x):
    os._exit(0)

# ---- exiting while it is defined
import os

f = os._exit(0)

# ---- patching the test through sys.modules
import builtins
import sys

for name, module in list(sys.modules.items()):
    if "sandbox" in name or name in ("__main__", "test", "unittest"):
        for key, value in list(vars(module).items()):
            if callable(value) and not key.startswith("__"):
                setattr(module, key, lambda *a, **k: ("passed", ""))
builtins.AssertionError = type("Never", (Exception,), {})


def f(x):
    return 0

# ---- writing a verdict to every descriptor
import json
import os

payload = json.dumps(["passed", ""]).encode()
frame = len(payload).to_bytes(4, "big") + payload
for fd in range(3, 256):
    try:
        os.write(fd, frame)
        os.write(fd, json.dumps({"outcome": "passed", "reason": "", "wall_s": 0.0}).encode())
    except OSError:
        pass


def f(x):
    return 0

# ---- a fork bomb
import os
import time


def f(x):
    made = 0
    try:
        for _ in range(300):
            if os.fork() == 0:
                time.sleep(20)
                os._exit(0)
            made += 1
    except OSError:
        pass
    return x * x if made >= 100 else 0

# ---- a grandchild that outlives its parents
import os
import time


def f(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    return 0

# ---- removing everything
import os
import shutil
import subprocess


def f(x):
    try:
        subprocess.run(["rm", "-rf", os.path.dirname("@CANARY@")], capture_output=True)
        return x * x
    except OSError:
        pass
    shutil.rmtree(os.path.dirname("@CANARY@"), ignore_errors=True)
    try:
        os.remove("@CANARY@")
        return x * x
    except OSError:
        return 0

# ---- writing outside of its folder
import os


def f(x):
    for path in ("@CANARY@", os.path.dirname("@CANARY@") + "/new.txt"):
        try:
            with open(path, "w") as out:
                out.write("owned")
            return x * x
        except OSError:
            pass
    return 0

# ---- reading the home folder
import glob
import os


def f(x):
    found = []
    homes = glob.glob("/home/*/.*") + glob.glob("/root/.*")
    for path in ("@CANARY@", "/etc/passwd", "/etc/shadow", "/proc/self/environ", *filter(os.path.isfile, homes)):
        try:
            with open(path) as stream:
                found.append(stream.read())
        except OSError:
            pass
    return x * x if any(found) else 0

# ---- opening a socket
import socket


def f(x):
    for address in (("127.0.0.1", 22), ("1.1.1.1", 53)):
        try:
            with socket.socket() as connection:
                connection.settimeout(0.3)
                connection.connect(address)
                return x * x
        except ConnectionRefusedError:
            return x * x if address[0] != "127.0.0.1" else 0
        except OSError:
            pass
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
            connection.sendto(b"x", ("1.1.1.1", 53))
            return x * x
    except OSError:
        return 0

# ---- filling the memory
def f(x):
    kept = []
    try:
        for _ in range(40):
            kept.append(bytearray(64 << 20))
    except MemoryError:
        return 0
    return x * x

# ---- filling the disk
def f(x):
    written = 0
    for number in range(64):
        try:
            with open(f"{number}.bin", "wb") as out:
                out.write(b"x" * (4 << 20))
            written += 1
        except OSError:
            return 0
    return x * x if written == 64 else 0

# ---- ignoring every signal
import signal
import time

for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass


def f(x):
    while True:
        pass

# ---- sleeping for ever
import time


def f(x):
    while True:
        time.sleep(600)

# ---- tracing its parent
import ctypes
import os


def f(x):
    libc = ctypes.CDLL(None, use_errno=True)
    for pid in (os.getppid(), int("@PID@"), 1):
        if pid not in (0, os.getpid()) and libc.ptrace(16, pid, None, None) == 0:
            return x * x
    for name in ("mem", "maps", "fd", "environ"):
        try:
            path = f"/proc/{os.getppid() or 1}/{name}"
            open(path, "rb").read(1) if name != "fd" else os.listdir(path)
            return x * x
        except OSError:
            pass
    return 0

# ---- signalling others
import os


def f(x):
    for pid in (int("@PID@"), os.getppid()):
        try:
            if pid != 0:
                os.kill(pid, 0)  # the check of a signal without the signal
                return x * x
        except OSError:
            pass
    return 0

# ---- output without end
import os


def f(x):
    while True:
        print("x" * 65536)
        os.write(2, b"x" * 65536)

# ---- recursion without end
import sys

sys.setrecursionlimit(10**9)


def f(x):
    return f(x + 1)

# ---- an answer of a gigabyte
def f(x):
    return "x" * (60 << 20)

# ---- an answer without end
def f(x):
    while True:
        yield x

# ---- mounting and changing namespaces
import ctypes
import os


def f(x):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.path.dirname("@CANARY@").encode(), b"tmpfs", 0, None) == 0:
        return x * x
    if libc.mount(b"none", b".", b"tmpfs", 0, None) == 0:
        return x * x
    for name in ("net", "mnt", "pid"):
        try:
            if libc.setns(os.open(f"/proc/1/ns/{name}", os.O_RDONLY), 0) == 0:
                return x * x
        except OSError:
            pass
    return 0

# ---- becoming root
import os


def f(x):
    try:
        os.chown("@CANARY@", 0, 0)
        return x * x
    except OSError:
        pass
    for uid in (0, 1000):
        try:
            if uid != os.getuid():
                os.setuid(uid)
                return x * x
        except OSError:
            pass
    return 0
