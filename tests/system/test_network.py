"""No verb uses a network: what is typed, trained and answered stays on the machine.

A hook sees the sockets of Python. Where user namespaces are allowed, the verbs also run in a network of their own; its
name server and its kernel count what libraries and child processes ask for.
"""

import ctypes
import fcntl
import multiprocessing
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import LAB, TINY
from PIL import Image

from lab.engine import cli

LOCAL = ("127.", "::1", "localhost", "0.0.0.0")
EVENTS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto")
NEWNS, NEWUSER, NEWNET, BIND, PRIVATE = 0x20000, 0x10000000, 0x40000000, 4096, 16384 | 1 << 18  # of <linux/sched.h>
DELAY = 11  # seconds from the import of ONNX Runtime to the first call of its telemetry, and some more
TINY_TUNE = "experiment=digits data.tiny=true net=mlp net.widths=[8] trainer=cpu lr.steps=20 figures=false"
COMMANDS = (
    f"train experiment=digits {TINY} run=run",
    "export run=run format=onnx",
    "predict model=run/model.onnx input=x.png",
    "serve model=run/model.onnx port=0",
    f"tune {TINY_TUNE}",
    "data experiment=digits data.tiny=true",
    "test run=run",
    "predict run=run input=x.png",
    "explain run=run input=x.png",
    "serve run=run port=0",
    "runs --log-dir .",
    "report run=run",
)
CONTROL = """
import contextlib, socket
for ask in (lambda: socket.getaddrinfo("control.example", 80), lambda: socket.create_connection(("192.0.2.1", 80), 1)):
    with contextlib.suppress(OSError):
        ask()
"""


def watch(said):
    """Refuse every address that is not this machine's, and write it down."""

    def hook(event, arguments):
        if event not in EVENTS:
            return
        place = arguments[0] if event.startswith("socket.get") else arguments[1]
        host = place[0] if isinstance(place, tuple) else place
        host = host.decode() if isinstance(host, bytes) else host
        if host and not str(host).startswith((*LOCAL, "/")):
            said(f"{event} {host}")
            raise OSError("no network here")

    sys.addaudithook(hook)


def isolate(folder):
    """Give this process a network of its own: loopback, where `names` answers.

    Raises:
        OSError: the system does not allow it.
    """
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()

    def call(function, *arguments):
        if function(*arguments):
            raise OSError(ctypes.get_errno(), f"{function.__name__}: {os.strerror(ctypes.get_errno())}")

    call(libc.unshare, NEWUSER | NEWNET | NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
    call(libc.mount, b"none", b"/", None, PRIVATE, None)
    for name, text in {
        "resolv.conf": "nameserver 127.0.0.1\nsearch .\n",
        "nsswitch.conf": "hosts: files dns\n",
    }.items():
        (folder / name).write_text(text)
        if Path("/etc", name).exists():
            call(libc.mount, bytes(folder / name), bytes(Path("/etc", name)), None, BIND, None)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    return server


def isolated(folder):
    """As `isolate`, tried in a child first: half of it would leave this process without any network."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            isolate(folder)
        except Exception as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    reason = os.read(reading, 999).decode()
    return (None, reason) if reason else (isolate(folder), "")


def names(server, said):
    """A name server that writes down who is asked for, and knows nobody."""
    while True:
        query, client = server.recvfrom(512)
        name, rest = [], query[12:]
        while rest[:1] > b"\0":
            name, rest = [*name, rest[1 : 1 + rest[0]].decode()], rest[1 + rest[0] :]
        said(".".join(name))
        server.sendto(query[:2] + b"\x81\x83" + query[4:], client)


def num_unreachable():
    """Connections and packets in this network to addresses of others."""
    counts = dict(re.findall(r"^(Ip6OutNoRoutes)\s+(\d+)", Path("/proc/net/snmp6").read_text(), re.MULTILINE))
    keys, values = re.findall("^Ip: (.*)", Path("/proc/net/snmp").read_text(), re.MULTILINE)
    return int(dict(zip(keys.split(), values.split(), strict=True))["OutNoRoutes"]) + sum(map(int, counts.values()))


def interrupt(out, before):
    """As Ctrl-C does, once the server has said where it listens."""
    while Path(out).read_text().count("http://127.0.0.1:") == before:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def every_verb(folder, out):
    from hydra.core.global_hydra import GlobalHydra

    def said(line):
        os.write(2, f"{line}\n".encode())

    os.chdir(folder)
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    os.environ.pop("CI", None)
    server, reason = isolated(folder)
    said(f"ISOLATED {reason or 'yes'}")
    if server:
        threading.Thread(target=names, args=(server, lambda name: said(f"NAME {name}")), daemon=True).start()
    watch(lambda line: said(f"NETWORK {line}"))
    begin = None
    for command in COMMANDS:
        sys.argv = [str(LAB), *command.split()]
        if command.startswith("serve"):
            before = Path(out).read_text().count("http://127.0.0.1:")
            threading.Thread(target=interrupt, args=(out, before), daemon=True).start()
        code = cli.exit_code(cli.main)
        GlobalHydra.instance().clear()
        begin = begin or ("onnxruntime" in sys.modules and time.monotonic()) or None
        said(f"ENDED {code} {command}")
    if server:
        time.sleep(max(0, begin + DELAY - time.monotonic()))
        said(f"UNREACHABLE {num_unreachable()}")
        subprocess.run([sys.executable, "-S", "-c", CONTROL], check=True)
        said(f"CONTROL {num_unreachable()}")
    os._exit(0)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """The output of all verbs."""
    folder = tmp_path_factory.mktemp("verbs")
    Image.new("L", (8, 8)).save(folder / "x.png")
    spawn = multiprocessing.get_context("spawn")  # what a library does where it is imported counts too
    process = spawn.Process(target=every_verb, args=(folder, str(folder / "err")))
    process.start()
    process.join(200)
    process.kill()
    process.join()
    return (folder / "err").read_text().splitlines()


def after(word, lines):
    return [line.removeprefix(f"{word} ") for line in lines if line.startswith(f"{word} ")]


def test_no_verb_calls_home(lines):
    ended = dict(reversed(line.split(" ", 1)) for line in after("ENDED", lines))
    assert ended.keys() == set(COMMANDS), lines
    assert after("NETWORK", lines) == []
    assert set(ended.values()) <= {"0", "130"}, "\n".join(lines)


def test_no_library_and_no_child_calls_home(lines):
    (isolated,) = after("ISOLATED", lines)
    if isolated != "yes":
        pytest.skip(f"no network namespace: {isolated}")
    names = {name for name in after("NAME", lines) if name not in (socket.gethostname(), socket.getfqdn())}
    assert names == {"control.example"}, "the control alone"
    assert after("UNREACHABLE", lines) == ["0"]
    assert after("CONTROL", lines) == ["1"], "the count works"


def test_onnxruntime_has_no_device_id(tmp_path):
    environ = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    code = "import lab, onnxruntime"
    subprocess.run([sys.executable, "-c", code], env=environ | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []
