"""What the measurements of live sockets share: the processes of a shop, and a live client."""

import asyncio
import base64
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELEASE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release")
BINARY = os.environ.get("GOZON_BIN", os.path.join(RELEASE, "gozon"))
PORT = int(os.environ.get("BENCH_PORT", "28080"))

# Descriptors that a process needs besides those of its sockets.
SPARE_DESCRIPTORS = 1000


def fail(why):
    sys.exit(f"{os.path.basename(sys.argv[0])}: {why}")


def raise_descriptor_limit(needed):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(needed, 1024)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, PermissionError):
        fail(f"{wanted} open files are needed, and {hard} are allowed (ulimit -Hn)")


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def servers(name):
    """The settings of orders and of payments, on empty databases of the servers that `scripts/services`
    has started, and on topics with this prefix."""
    server = os.environ["GOZON_TEST_POSTGRES_URL"].rsplit("/", 1)[0]
    broker = os.environ["GOZON_TEST_AMQP_URL"] + f"?prefix={name}."
    settings = []
    for service in ("orders", "payments"):
        database = f"{name}_{service}"
        for sql in (f"drop database if exists {database} with (force)", f"create database {database}"):
            subprocess.run(["psql", "-qX", f"{server}/postgres", "-c", sql], check=True, stderr=subprocess.DEVNULL)
        settings.append({"GOZON_BROKER_URL": broker, "GOZON_DATABASE_URL": f"{server}/{database}"})
    return settings


class Shop:
    """Processes of the binary under test, by name."""

    def __init__(self, folder, sockets):
        self.folder, self.commands, self.processes = folder, {}, {}
        self.common = {name: value for name, value in os.environ.items() if not name.startswith("GOZON_")}
        self.common |= {"GOZON_LOG": "warn", "GOZON_MAX_SOCKETS": str(sockets + SPARE_DESCRIPTORS)}

    def add(self, name, command, port, settings):
        self.commands[name] = (command, port, self.common | settings | {"GOZON_LISTEN": f"127.0.0.1:{port}"})

    def start(self, name):
        """Starts a process that was added, and waits until it is ready."""
        command, port, settings = self.commands[name]
        with open(os.path.join(self.folder, f"{name}.log"), "a") as log:
            process = subprocess.Popen([BINARY, command], env=settings, stdout=log, stderr=log)
        self.processes[name] = process
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz")
                return
            except OSError:
                if process.poll() is not None:
                    with open(log.name) as said:
                        fail(f"{name} has ended: {said.read()}")
                time.sleep(0.1)

    def start_all(self):
        for name in self.commands:
            self.start(name)

    def stop(self):
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait()


class Socket(asyncio.Protocol):
    """A live client that answers pings, and says when it has its snapshot and when it ends."""

    def __init__(self, user):
        loop = asyncio.get_running_loop()
        self.user, self.buffer, self.switched = user, b"", False
        self.opened, self.ended, self.code = loop.create_future(), loop.create_future(), None

    def connection_made(self, transport):
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /orders/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"X-User-Id: {self.user}\r\n\r\n".encode()
        )

    def data_received(self, data):
        self.buffer += data
        if not self.switched and b"\r\n\r\n" in self.buffer:
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            if not head.startswith(b"HTTP/1.1 101"):
                self.transport.close()
                return
            self.switched = True
        while self.switched and len(self.buffer) >= 2:
            length, start = self.buffer[1], 2
            if length == 126:
                length, start = int.from_bytes(self.buffer[2:4], "big"), 4
            elif length == 127:
                length, start = int.from_bytes(self.buffer[2:10], "big"), 10
            if len(self.buffer) < start + length:
                return
            opcode, payload = self.buffer[0] & 0x0F, self.buffer[start : start + length]
            self.buffer = self.buffer[start + length :]
            if opcode == 8:
                self.code = int.from_bytes(payload[:2], "big")
                # The answer, masked with zeros.
                self.transport.write(b"\x88\x82\0\0\0\0" + payload[:2])
            elif opcode == 9:
                self.transport.write(b"\x8a\x80\0\0\0\0")
            elif not self.opened.done():
                self.opened.set_result(True)

    def connection_lost(self, _):
        if not self.opened.done():
            self.opened.set_result(False)
        self.ended.set_result(self.code)
