"""The folder in which a page of the manual is followed, and what is done there with its blocks.

Pages say port 8000 or 8001, as their readers do. Several test runs may share a machine, so each of
the ports in ``PORTS`` that a page names becomes a free port, wherever the page names it: in
commands, in their output, in files. Commands that serve on port 8000 without saying so are told a
free port. In the same way 6379 becomes the port of the tests' Redis. The settings of the page's
project get that Redis in any case, by ``overlay/sitecustomize.py``.
"""

from __future__ import annotations

import configparser
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import redis
import yaml

from testproject.embedded import find_free_port
from tests.docs.blocks import Block, Page, PageError
from tests.servers import ROOT

OVERLAY = Path(__file__).parent / "overlay"

#: Seconds for a command, and for a server to start.
PATIENCE = 60
POLL = 0.05

PORTS = re.compile(r"(?<![\d.])(?:800\d|8080|8443)(?!\d)")
_REDIS_PORT = re.compile(r"(?<![\d.])6379(?!\d)")

#: What serves on port 8000 when nothing is said, and how it is told another one.
_UNTOLD = {"runserver": "{port}", "daphne": "-p {port}", "uvicorn": "--port {port}"}
_UNTOLD |= {"gunicorn": "-b 127.0.0.1:{port}"}

SETTINGS = """

INSTALLED_APPS = ["daphne", "channels", "channels_ws4redis", *INSTALLED_APPS]
ASGI_APPLICATION = "mysite.asgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "channels_ws4redis.layers.RedisChannelLayer"}}
WS4REDIS_ALLOW_PUBLISH = True
"""

ASGI = """\
import os

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
http_application = get_asgi_application()

import channels_ws4redis.routing  # after Django has been set up by the line above

application = ProtocolTypeRouter(
    {"http": http_application, "websocket": channels_ws4redis.routing.application}
)
"""

USERS = """
from django.contrib.auth.models import User

for name in ("john", "mary"):
    User.objects.create_user(name, password=name)
"""


class Worker:
    """The process that forks a process for each job; see ``worker.py``."""

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url

    @property
    def environment(self) -> dict[str, str]:
        """The environment of everything that a page starts."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if name != "DJANGO_SETTINGS_MODULE" and not name.startswith(("COV", "PYTEST"))
        }
        return kept | {
            "MANUAL_REDIS_URL": self.redis_url,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",  # a file may be replaced within its time stamp's second
            "PYTHONPATH": f"{OVERLAY}{os.pathsep}{ROOT}",
            "PYTHONUNBUFFERED": "1",
            "REDIS_URL": self.redis_url,
        }

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def do(self, name: str, folder: Path, **arguments: Any) -> tuple[int, str]:
        """Do a job in a folder; returns the exit code and the output."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"name": name, "folder": str(folder), "arguments": arguments}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["code"], answer["output"]


def make_base(folder: Path, worker: Worker) -> None:
    """Make the project that pages begin with: our layer and router, and the users john and mary."""
    run = functools.partial(subprocess.run, cwd=folder, env=worker.environment, check=True)
    run([sys.executable, "-m", "django", "startproject", "mysite", "."])
    with (folder / "mysite" / "settings.py").open("a") as settings:
        settings.write(SETTINGS)
    (folder / "mysite" / "asgi.py").write_text(ASGI)
    run([sys.executable, "manage.py", "migrate", "--verbosity", "0"])
    code, output = worker.do("python", folder, source=USERS, setup="", page="the users")
    assert code == 0, output


class Project:
    """A page's folder; what the page has started there ends with ``with``."""

    def __init__(self, folder: Path, base: Path, worker: Worker, page: Page) -> None:
        self.folder = folder / "site"
        self.missing: set[str] = set()  # programs that could have checked a block
        self._scratch = folder
        self._worker = worker
        self._page = page
        self._servers: dict[int, subprocess.Popen[bytes]] = {}
        self._others: list[subprocess.Popen[bytes]] = []
        self._ports: dict[str, int] = {}
        if page.empty:
            self.folder.mkdir()
        else:
            shutil.copytree(base, self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for port in list(self._servers):
            self.stop(port)
        for process in self._others:
            _end(process)

    def follow(self) -> None:
        """Do what the page says, from top to bottom."""
        for block in self._page.blocks:
            self.do(block)

    def port(self, number: int) -> int:
        """Return the port that stands for one of the page's ports."""
        name = str(number)
        if name not in self._ports:
            self._ports[name] = find_free_port()
        return self._ports[name]

    def url(self, path: str = "/", port: int = 8000) -> str:
        """Return the address of a path at a server that the page has started."""
        return f"http://127.0.0.1:{self.port(port)}{path}"

    def do(self, block: Block) -> None:
        """Do what a reader does with a block, or see that it is well-formed."""
        for command in block.before:
            self._shell(block, [(self._translate(command), [])])
        text = self._translate(block.text)
        if block.marker in {"file", "append"}:
            self._write(block, text)
        elif block.marker == "not run":
            pass
        elif block.language == "console":
            self._console(block, text)
        elif block.language == "python":
            padding = "\n" * block.line  # so that tracebacks name the lines of the page
            self._work(block, "python", source=padding + text, setup=block.setup)
        elif block.language == "html":
            self._work(block, "template", source=text, setup=block.setup)
        elif block.language in CHECKS:
            CHECKS[block.language](self, block, text)
        elif block.language not in {"text", "diff"}:
            raise PageError(f"{block.where}: no way is known to run a block of {block.language!r}")

    def fail(self, block: Block, problem: str) -> None:
        """Say that a block has failed, and where it stands."""
        raise PageError(f"{block.where}: {problem}")

    def _translate(self, text: str) -> str:
        text = PORTS.sub(lambda found: str(self.port(int(found[0]))), text)
        if redis_port := urlsplit(self._worker.redis_url).port:
            text = _REDIS_PORT.sub(str(redis_port), text)
        return text

    def _work(self, block: Block, name: str, **arguments: str) -> None:
        arguments = {"source": "", "setup": "", "page": block.page} | arguments
        code, output = self._worker.do(name, self.folder, **arguments)
        if code:
            self.fail(block, f"the block ends with code {code}:\n{output}")

    # Files

    def _write(self, block: Block, text: str) -> None:
        path = (self.folder / block.argument).resolve()
        if not path.is_relative_to(self.folder):
            self.fail(block, f"{block.argument} is outside of the page's folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        if block.marker == "append":
            with path.open("a") as file:
                file.write("\n" + text)
        else:
            path.write_text(text)
        if path.suffix == ".py":
            self._check_python_file(block, path)
        elif path.suffix == ".html":
            if (self.folder / "manage.py").exists():
                self._work(block, "template_file", source=path.read_text())
        elif block.language in CHECKS:
            CHECKS[block.language](self, block, path.read_text())

    def _check_python_file(self, block: Block, path: Path) -> None:
        try:
            compile(path.read_text(), str(path), "exec")
        except SyntaxError as error:
            self.fail(block, str(error))
        if not (self.folder / "manage.py").exists():
            return
        self._work(block, "check")
        if path.name == "asgi.py":
            self._work(block, "load", source="mysite.asgi")

    # Commands

    def _console(self, block: Block, text: str) -> None:
        steps: list[tuple[str, list[str]]] = []
        for line in text.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            elif not steps:
                self.fail(block, "the first line of a console block is a command: '$ ...'")
            elif line.startswith("> ") or (steps[-1][0].endswith("\\") and not steps[-1][1]):
                command, _ = steps.pop()
                steps.append((f"{command}\n{line.removeprefix('> ')}", []))
            else:
                steps[-1][1].append(line)
        last = steps.pop() if block.marker in {"serves", "runs on"} else None
        if steps:
            self._shell(block, steps)
        if last and block.marker == "serves":
            self._serve(block, *last)
        elif last:
            command, expected = last
            self._others.append(self._start(block, command))
            self._await_start(block, self._others[-1], lambda log: not _missing(expected, log))

    def _shell(self, block: Block, steps: list[tuple[str, list[str]]]) -> None:
        """Run commands in one shell, which goes on where the last block's shell has stopped."""
        state = self._scratch / "state.sh"
        script = ["set -e", f"cd '{self.folder}'", f"[ ! -e '{state}' ] || . '{state}'"]
        for command, _ in steps:
            script += [command, r"printf '\n\0'"]
        script.append(f"{{ export -p; printf 'cd %q\\n' \"$PWD\"; }} >'{state}'")
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            env=self._worker.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        outputs = done.stdout.decode(errors="replace").split("\0")
        if done.returncode:
            command, _ = steps[min(len(outputs), len(steps)) - 1]
            self.fail(block, f"'{command}' ends with code {done.returncode}:\n{outputs[-1]}")
        for (command, expected), output in zip(steps, outputs, strict=False):
            if missing := _missing(expected, output):
                self.fail(block, f"'{command}' does not print '{missing}', but:\n{output}")

    def _serve(self, block: Block, command: str, expected: list[str]) -> None:
        ports = [port for port in self._ports.values() if re.search(rf"\b{port}\b", command)]
        if not ports:
            ports = [self.port(8000)]
            for program, told in _UNTOLD.items():
                if re.search(rf"\b{program}\b", command):
                    command = f"{command} {told.format(port=ports[0])}"
                    break
        port = ports[0]
        self.stop(port)
        self._servers[port] = self._start(block, command)
        self._await_start(
            block, self._servers[port], lambda log: listens(port) and not _missing(expected, log)
        )

    def _start(self, block: Block, command: str) -> subprocess.Popen[bytes]:
        """Start what runs until the end of the page."""
        state = self._scratch / "state.sh"
        with self._log(block).open("wb") as output:
            # The command takes the shell's place, so that it is the command that is stopped and is
            # waited for. From 5.1 on, bash does so by itself.
            return subprocess.Popen(
                ["bash", "-c", f"[ ! -e '{state}' ] || . '{state}'\nexec {command}"],
                cwd=self.folder,
                env=self._worker.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _await_start(
        self, block: Block, process: subprocess.Popen[bytes], is_ready: Callable[[str], bool]
    ) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_ready(self._log(block).read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                printed = self._log(block).read_text(errors="replace")
                self.fail(block, f"what it starts is not what is expected:\n{printed}")
            time.sleep(POLL)

    def _log(self, block: Block) -> Path:
        """Return where the output of what a block has started goes."""
        return self._scratch / f"{block.line}.log"

    def pid(self, port: int) -> int:
        """Return the number of the process that serves on a port, or of its parent."""
        return self._servers[port].pid

    def stop(self, port: int) -> None:
        """End the server on a port, if there is one."""
        if server := self._servers.pop(port, None):
            _end(server)

    # Checks of what is not run

    def check_json(self, block: Block, text: str) -> None:
        """Parse JSON, one value or one on each line."""
        try:
            try:
                json.loads(text)
            except json.JSONDecodeError:
                for line in text.splitlines():
                    json.loads(line)
        except json.JSONDecodeError as error:
            self.fail(block, str(error))

    def check_yaml(self, block: Block, text: str) -> None:
        """Parse YAML, also of several documents."""
        try:
            list(yaml.safe_load_all(text))
        except yaml.YAMLError as error:
            self.fail(block, str(error))

    def check_toml(self, block: Block, text: str) -> None:
        """Parse TOML."""
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            self.fail(block, str(error))

    def check_ini(self, block: Block, text: str) -> None:
        """Parse what systemd and supervisord read."""
        parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        try:
            parser.read_string(text)
        except configparser.Error as error:
            self.fail(block, str(error))

    def check_js(self, block: Block, text: str) -> None:
        """Let node parse a script or a module."""
        self._parse_by("node", ["node", "--check"], ".mjs", block, text)

    def check_ts(self, block: Block, text: str) -> None:
        """Let node strip the types, if it is young enough to know how."""
        if _node_strips_types():
            self._parse_by("node", ["node", "--check"], ".mts", block, text)

    def check_lua(self, block: Block, text: str) -> None:
        """Let Redis compile a script."""
        client = redis.Redis.from_url(self._worker.redis_url)
        try:
            client.script_load(text)
        except redis.ResponseError as error:
            self.fail(block, str(error))
        finally:
            client.close()

    def check_caddy(self, block: Block, text: str) -> None:
        """Let Caddy translate its configuration."""
        command = ["caddy", "adapt", "--adapter", "caddyfile", "--config"]
        self._parse_by("caddy", command, ".caddy", block, text)

    def check_nginx(self, block: Block, text: str) -> None:
        """Let nginx test a configuration, or a piece of it within what has to be around it."""
        if not re.search(r"^\s*http\s*\{", text, re.MULTILINE):
            if not re.search(r"^\s*server\s*\{", text, re.MULTILINE):
                outer, inner = _split_nginx(text)
                text = f"{outer}\nserver {{ listen 127.0.0.1:{self.port(8080)};\n{inner}\n}}"
            text = f"events {{}}\nhttp {{ access_log off;\n{text}\n}}"
        if "ssl_certificate" in text:
            certificate = self._make_certificate()
            text = re.sub(r"(ssl_certificate(?:_key)?)\s+[^;]+;", rf"\1 {certificate};", text)
        command = ["nginx", "-t", "-q", "-e", "stderr", "-p", str(self._scratch)]
        command += ["-g", f"pid {self._scratch}/nginx.pid;", "-c"]
        self._parse_by("nginx", command, ".conf", block, text)

    def _make_certificate(self) -> Path:
        path = self._scratch / "certificate.pem"
        if not path.exists():
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=example.com",
                 "-keyout", str(path), "-out", f"{path}.public"],
                check=True, capture_output=True,
            )  # fmt: skip
            with path.open("a") as file:
                file.write(Path(f"{path}.public").read_text())
        return path

    def _parse_by(
        self, program: str, command: list[str], suffix: str, block: Block, text: str
    ) -> None:
        if shutil.which(program) is None:
            self.missing.add(program)
            return
        path = self._scratch / f"block-{block.line}{suffix}"
        path.write_text(text)
        done = subprocess.run(
            [*command, str(path)], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if done.returncode:
            self.fail(block, f"{program} refuses it:\n{done.stdout}{done.stderr}")


CHECKS: dict[str, Callable[[Project, Block, str], None]] = {
    "json": Project.check_json,
    "yaml": Project.check_yaml,
    "toml": Project.check_toml,
    "ini": Project.check_ini,
    "js": Project.check_js,
    "ts": Project.check_ts,
    "lua": Project.check_lua,
    "caddy": Project.check_caddy,
    "nginx": Project.check_nginx,
}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children as a service manager does: friendly first."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE / 4)


def _missing(expected: list[str], output: str) -> str:
    """Return the first line that is not found, in order, in the output."""
    rest = [line.strip() for line in output.splitlines()]
    for wanted in expected:
        if wanted.strip() in {"", "..."}:
            continue
        pattern = ".*".join(re.escape(part) for part in wanted.strip().split("..."))
        while rest:
            if re.search(pattern, rest.pop(0)):
                break
        else:
            return wanted
    return ""


def listens(port: int) -> bool:
    """Tell whether a server listens on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _split_nginx(text: str) -> tuple[str, str]:
    """Part what belongs beside a server from what belongs into one."""
    outer = re.findall(r"^(?:upstream|map)\b[^{]*\{.*?^\}", text, re.MULTILINE | re.DOTALL)
    for piece in outer:
        text = text.replace(piece, "")
    return "\n".join(outer), text


@functools.cache
def _node_strips_types() -> bool:
    if shutil.which("node") is None:
        return False
    done = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    major, minor, *_ = done.stdout.strip().removeprefix("v").split(".")
    return (int(major), int(minor)) >= (22, 18)
