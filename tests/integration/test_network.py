"""Nothing calls home: every verb runs without a network, asks for no name, connects to nothing but loopback, and writes
below its run, cache and temporary folders only.

The verbs run in one process whose C library is watched: runtimes look names up in C++, where Python sees nothing. Where
the system allows it, the process has a network of its own with nothing in it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from boxwright.cli.main import VERBS
from tests.integration.small_runs import write_world

GUARD = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

static void note(const char *what, const char *value) {
    static int (*real_open)(const char *, int, ...);
    if (!real_open) real_open = NEXT(open);
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s %s\n", what, value ? value : "");
    int file = real_open(getenv("GUARD_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file >= 0) { if (write(file, line, length)) {} close(file); }
}
static int is_remote(const char *name) {
    return name && strcmp(name, "localhost") && strncmp(name, "127.", 4) && strcmp(name, "::1");
}
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    if (is_remote(name)) { note("lookup", name); return EAI_NONAME; }
    return NEXT(getaddrinfo)(name, service, hints, found);
}
struct hostent *gethostbyname(const char *name) {
    if (is_remote(name)) { note("lookup", name); return NULL; }
    return NEXT(gethostbyname)(name);
}
static int goes_out(const struct sockaddr *to) {
    char text[INET6_ADDRSTRLEN] = "";
    if (!to) return 0;
    if (to->sa_family == AF_INET) inet_ntop(AF_INET, &((struct sockaddr_in *) to)->sin_addr, text, sizeof text);
    if (to->sa_family == AF_INET6) inet_ntop(AF_INET6, &((struct sockaddr_in6 *) to)->sin6_addr, text, sizeof text);
    if (!*text || !strncmp(text, "127.", 4) || !strcmp(text, "::1")) return 0;
    note("connect", text);
    return 1;
}
int connect(int s, const struct sockaddr *to, socklen_t size) {
    if (goes_out(to)) { errno = ENETUNREACH; return -1; }
    return NEXT(connect)(s, to, size);
}
ssize_t sendto(int s, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    if (goes_out(to)) { errno = ENETUNREACH; return -1; }
    return NEXT(sendto)(s, data, size, flags, to, length);
}
static void written(const char *path) {
    char whole[2 * PATH_MAX] = "";
    if (path[0] != '/' && getcwd(whole, PATH_MAX)) strcat(whole, "/");
    strncat(whole, path, PATH_MAX - 1);
    note("write", whole);
}
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
        if (flags & (O_WRONLY | O_RDWR)) written(path); \
        return NEXT(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); \
        if ((flags & (O_WRONLY | O_RDWR)) && folder == AT_FDCWD) written(path); \
        return NEXT(name)(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)
FILE *fopen(const char *path, const char *mode) {
    if (strpbrk(mode, "wa+")) written(path);
    return NEXT(fopen)(path, mode);
}
FILE *fopen64(const char *path, const char *mode) {
    if (strpbrk(mode, "wa+")) written(path);
    return NEXT(fopen64)(path, mode);
}
"""

DRIVER = """
import fcntl, json, socket, struct, sys
from contextlib import suppress

if __name__ == "__main__":
    with suppress(OSError), socket.socket() as s:  # loopback of a new network is down
        name = b"lo".ljust(16, bytes(1))
        flags = struct.unpack("16sH", fcntl.ioctl(s, 0x8913, struct.pack("16sH", name, 0)))[1]
        fcntl.ioctl(s, 0x8914, struct.pack("16sH", name, flags | 1))
    from boxwright.cli.main import main
    for words in json.loads(sys.argv[1]):
        print("#", *words, flush=True)
        code = main(words)
        if code:
            sys.exit(f"boxwright {' '.join(words)}: exit code {code}")
"""


def commands(data: Path, network: Path) -> list[list[str]]:
    """Return every verb, each with what brings a library of its own."""
    small = ["--imgsz", "64", "--device", "cpu"]
    training = [*small, "--data", str(data), "--epochs", "1", "--batch-size", "4", "--workers", "0"]
    best = "runs/train/exp/weights/best.pt"
    exported = {kind: f"runs/train/exp/weights/best{kind}" for kind in (".onnx", ".torchscript", "_openvino_model")}
    images = ["--source", str(next(data.parent.rglob("*.[jp][pn]g"))), "--imgsz", "64"]
    return [
        ["check", str(data), "--plots", "plots"],
        ["info", "--model", str(network), "--nc", "2"],
        ["train", "--model", str(network), *training, "--callbacks", "mlflow"],
        ["train", "--model", str(network), *training, "--nproc", "2", "--noplots", "--name", "two"],
        ["val", "--weights", best, "--data", str(data), *small, "--workers", "0"],
        ["export", "--weights", best, "--include", "onnx", "torchscript", "openvino", *small, "--data", str(data)],
        *(["predict", "--weights", file, *images] for file in (best, *exported.values())),
        ["anchors", str(data), "--imgsz", "64"],
        ["convert", "weights", best, "best.safetensors"],
        ["convert", "data", str(data), "coco", "--to", "coco"],
        ["bench", "op", "--op", "Conv2d(3, 4, 3)", "--device", "cpu"],
        ["evolve", "--model", str(network), *training, "--generations", "2", "--sampler", "cmaes", "--noplots"],
    ]


def network_of_its_own() -> list[str]:
    """Return what starts a program in an empty network; nothing where that is not allowed."""
    unshare = shutil.which("unshare")
    for words in (["-n"], ["-rn"]):
        if unshare and subprocess.run([unshare, *words, "true"], capture_output=True, check=False).returncode == 0:
            return [unshare, *words]
    return []


@pytest.mark.skipif(not shutil.which("gcc") or sys.platform != "linux", reason="needs gcc, to watch the C library")
def test_every_verb_calls_nobody_and_writes_where_it_should(tmp_path: Path) -> None:
    data, network = write_world(tmp_path / "given", num_images=6)
    folders = {name: tmp_path / name for name in ("work", "cache", "temp", "home")}
    for folder in folders.values():
        folder.mkdir()
    guard, log = tmp_path / "guard.so", tmp_path / "log"
    (tmp_path / "guard.c").write_text(GUARD)
    build = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(guard), str(tmp_path / "guard.c"), "-ldl"]
    subprocess.run(build, check=True, capture_output=True)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    asked = commands(data, network)
    assert {words[0] for words in asked} == VERBS.keys() - {"demo"}  # which calls train, val and predict
    telling = ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    environment = {name: value for name, value in os.environ.items() if name not in telling} | {
        "HOME": str(folders["home"]),
        "XDG_CACHE_HOME": str(folders["cache"]),
        "MPLCONFIGDIR": str(folders["cache"] / "matplotlib"),
        "TMPDIR": str(folders["temp"]),
        "LD_PRELOAD": str(guard),
        "GUARD_LOG": str(log),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [*network_of_its_own(), sys.executable, str(driver), json.dumps(asked)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=environment, cwd=folders["work"], check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = sorted(set(log.read_text().splitlines()))
    assert [line for line in lines if not line.startswith("write ")] == []
    wrote = [Path(line.removeprefix("write ")) for line in lines]
    assert wrote  # the guard is there
    allowed = (*(folders[name] for name in ("work", "cache", "temp")), Path("/dev"), Path("/proc"))
    assert [path for path in wrote if not any(path.is_relative_to(folder) for folder in allowed)] == []
    assert [path for path in folders["home"].rglob("*") if path.is_file()] == []
