"""The reference is complete: it names all that there is, and nothing that there is not.

What a page documents stands in code in a heading, or in the first column of a table. What there is
to be documented is asked of the code itself.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from autobahn.websocket.types import ConnectionDeny
from channels.layers import channel_layers, get_channel_layer
from channels.testing import WebsocketCommunicator
from django.core.checks.registry import registry
from django.core.management import find_commands, get_commands
from django.test import RequestFactory
from django.utils.functional import cached_property
from markdown_it import MarkdownIt
from markdown_it.token import Token

import channels_ws4redis
from channels_ws4redis.checks import register
from channels_ws4redis.conf import PROPERTIES
from channels_ws4redis.context_processors import default
from channels_ws4redis.handshake.requests import WebSocketRequest
from channels_ws4redis.layers import RedisChannelLayer
from channels_ws4redis.protocol import codes
from channels_ws4redis.protocol.names import AUDIENCES, channel_labels, channel_name
from channels_ws4redis.publisher import RedisPublisher
from channels_ws4redis.redis_store import RedisStore
from channels_ws4redis.routing import router
from channels_ws4redis.serving.replaying import HookSocket
from channels_ws4redis.serving.subscriber_hooks import SubscriberHooks
from channels_ws4redis.store import commands, queues
from channels_ws4redis.subscriber import RedisSubscriber
from channels_ws4redis.templatetags.ws4redis import register as tags
from channels_ws4redis.urls import upgrade_required
from testproject.embedded import RedisServer
from tests.docs.blocks import read_page
from tests.servers import ROOT
from tests.test_protocol_vectors import CHANNEL_KEYS, KEYS, SUBSCRIPTIONS, VECTORS

REFERENCE = ROOT / "docs" / "reference"
PACKAGE = ROOT / "channels_ws4redis"
SCRIPT = (PACKAGE / "static" / "js" / "ws4redis.js").read_text()
TYPES = (PACKAGE / "static" / "js" / "ws4redis.d.ts").read_text()


# What a page documents


def documented(page: str, *sections: str) -> list[str]:
    """Return what a page documents within the sections of these headings, or anywhere.

    A section ends with the next heading of its level or above.
    """
    tokens = MarkdownIt().enable("table").parse((REFERENCE / page).read_text())
    found = []
    level, column = (9 if sections else 0), 0
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following is not None:
            depth = int(token.tag[1])
            if following.content.replace("`", "") in sections:
                level = depth
            elif depth <= level and sections:
                level = 9
            if sections and level == 9:
                continue
            found += code(following)
        elif token.type == "tr_open":
            column = 0
        elif token.type == "td_open" and following is not None:
            column += 1
            if column == 1 and not (sections and level == 9):
                found += code(following)
    return found


def code(inline: Token) -> list[str]:
    """Return the spans of code in a line of text."""
    return [child.content for child in inline.children or () if child.type == "code_inline"]


def names(spans: Iterable[str]) -> set[str]:
    """Return spans of code without the arguments in them."""
    return {span.partition("(")[0] for span in spans}


def text(page: str) -> str:
    """Return a page, with one kind of space."""
    return " ".join((REFERENCE / page).read_text().split())


# What there is


def modules() -> dict[str, ModuleType]:
    """Return the modules of the package's face by their full names, also the package itself."""
    found = {channels_ws4redis.__name__: channels_ws4redis}
    for module in pkgutil.iter_modules(channels_ws4redis.__path__, "channels_ws4redis."):
        if not module.ispkg:
            found[module.name] = import_module(module.name)
    return found


PUBLIC = {name: module for name, module in modules().items() if hasattr(module, "__all__")}


def members(cls: type) -> set[str]:
    """Return the public names in a class that the package has written."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("channels_ws4redis")]
    return {name for base in own for name in vars(base) if not name.startswith("_")}


def trees(folder: str = "") -> Iterator[tuple[str, ast.Module]]:
    """Yield the modules of the package, or of a folder in it, with their syntax trees."""
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def calls(tree: ast.AST, *called: str) -> Iterator[ast.Call]:
    """Yield the calls of functions and methods with these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "attr", None) or getattr(function, "id", None)
            if name in called:
                yield node


def constants(node: ast.AST) -> list[str]:
    """Return the texts in a node."""
    found = [item.value for item in ast.walk(node) if isinstance(item, ast.Constant)]
    return [value for value in found if isinstance(value, str)]


def pattern(node: ast.AST) -> str:
    """Return a text, or one with places to be filled, with … in these places."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "…"
            for part in node.values  # type: ignore[misc] # texts only
        )
    assert isinstance(node, ast.Constant), ast.dump(node)
    return re.sub(r"%[sr]", "…", str(node.value))


# Settings


def load_make_settings() -> ModuleType:
    """Import the script that makes the page of settings."""
    path = ROOT / "docs" / "make_settings.py"
    spec = importlib.util.spec_from_file_location("make_settings", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_up_to_date() -> None:
    """It is made from the settings' docstrings; ``make docs`` makes it anew."""
    assert load_make_settings().page() == (REFERENCE / "settings.md").read_text()


def test_every_setting_has_a_text() -> None:
    assert PROPERTIES.keys() == names(documented("settings.md"))
    assert [name for name, value in PROPERTIES.items() if not inspect.getdoc(value)] == []


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*.md")), ids=lambda path: path.name)
def test_every_setting_and_check_that_is_mentioned_exists(path: Path) -> None:
    page = path.read_text()
    assert set(re.findall(r"\bWS4REDIS_[A-Z_]+", page)) <= PROPERTIES.keys()
    assert set(re.findall(r"ws4redis\.[EWI]\d+", page)) <= checks()


# Python


def test_a_module_is_public_or_says_that_it_is_not() -> None:
    """A public module lists its public names."""
    others = [module for name, module in modules().items() if name not in PUBLIC]
    assert [module.__name__ for module in others if "Private." not in (module.__doc__ or "")] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    """So is every public method of a public class, and nothing else."""
    module = PUBLIC[name]
    if name == "channels_ws4redis.settings":
        assert set(module.__all__) == names(documented("settings.md"))
        return
    known = names(documented("python.md", name))
    if name == "channels_ws4redis.subscriber":
        known |= names(documented("hooks.md", "The subscriber"))
    there = set(module.__all__)
    optional: set[str] = set()
    for public in map(vars(module).get, module.__all__):
        if isinstance(public, type):
            there |= members(public)
            optional |= {name for name in dir(public) if not name.startswith("__")}
        if callable(public) and not is_exception(public):
            optional |= parameters(public)
    if name == "channels_ws4redis.redis_store":
        there -= members(RedisStore)  # which the page lists with those who have them
    assert there - known == set()
    if name == "channels_ws4redis.context_processors":
        optional |= default(RequestFactory().get("/")).keys()
    if name == "channels_ws4redis.publisher":
        optional |= parameters(RedisStore._get_message_channels)
        optional |= parameters(RedisStore.publish_message) | exceptions(redis.exceptions)
    if name == "channels_ws4redis.subscriber":
        optional |= vars(HookSocket).keys() | {"__init__", "_subscription", "_connection"}
        optional |= vars(RedisSubscriber()).keys()
    assert known - there - optional == set()


def is_exception(value: Any) -> bool:
    """Tell whether something is an exception; such have no signature of their own."""
    return isinstance(value, type) and issubclass(value, BaseException)


def exceptions(module: ModuleType) -> set[str]:
    """Return the full names of a module's exceptions, and the one for bad arguments."""
    return {f"{module.__name__}.{name}" for name in vars(module)} | {"ValueError"}


def parameters(function: Callable[..., Any]) -> set[str]:
    """Return the names of a function's parameters."""
    return set(inspect.signature(function).parameters)


def signature(function: Callable[..., Any]) -> str:
    """Return a function's parameters without their types, and without those that Python gives."""
    found = inspect.signature(function)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in found.parameters.items()
        if name not in {"self", "context"}
    ]
    return str(inspect.Signature(bare))


def signed() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield what the pages say of arguments, and the function that takes them."""
    for name, module in PUBLIC.items():
        spans = documented("python.md", name)
        if name == "channels_ws4redis.subscriber":
            spans += documented("hooks.md", "The subscriber")
        owners: list[Any] = [vars(module).get(public) for public in module.__all__]
        owners = [*filter(inspect.isclass, owners), module]
        if name == "channels_ws4redis.subscriber":
            owners.append(HookSocket)
        for span in spans:
            head, bracket, _ = span.partition("(")
            for owner in owners:
                if bracket and hasattr(owner, head):
                    yield span, getattr(owner, head)
                    break
    for span in documented("python.md", "Template tag"):
        if "(" in span:
            yield span, inspect.unwrap(tags_function(span.partition("(")[0]))


def tags_function(name: str) -> Callable[..., Any]:
    """Return the function behind a template tag."""
    return vars(import_module("channels_ws4redis.templatetags.ws4redis"))[name]


#: What passes the most of its arguments on.
PASSED_ON = {"RedisPublisher": RedisStore._get_message_channels}


@pytest.mark.parametrize(
    ("span", "function"), [pytest.param(*each, id=each[0]) for each in signed()]
)
def test_arguments_are_those_of_the_code(span: str, function: Callable[..., Any]) -> None:
    head, _, rest = span.partition("(")
    if head in PASSED_ON:
        listed = {argument.partition("=")[0] for argument in re.split(r", (?!\))", rest[:-1])}
        own = parameters(function) - {"unnamed", "kwargs"}
        assert listed - {"*"} | {"self"} == parameters(PASSED_ON[head]) | own
    else:
        assert f"({rest}" == signature(function)


def test_every_argument_that_a_table_explains_is_taken() -> None:
    """And the other way round, for what has a table of its own."""
    for section, function, others in (
        ("Template tag", tags_function("ws4redis"), {"context", "ws4redis"}),
        ("channels_ws4redis.layers", RedisChannelLayer, set()),
    ):
        assert parameters(function) - others <= names(documented("python.md", section))


def test_every_template_tag_is_documented() -> None:
    heading, *arguments = names_in_order(documented("python.md", "Template tag"))
    assert tags.tags.keys() == {heading}
    assert set(arguments) == parameters(tags_function(heading)) - {"context"}


def names_in_order(spans: Iterable[str]) -> list[str]:
    """Return spans of code without their arguments."""
    return [span.partition("(")[0] for span in spans]


def test_every_hook_of_a_subscriber_is_documented() -> None:
    """All public names of the class, and what the package looks for in a subclass."""
    looked_for = set(constants(ast.parse(inspect.getsource(SubscriberHooks))))
    hooks = {name for name in looked_for if hasattr(RedisSubscriber, name)}
    known = names(documented("hooks.md", "The subscriber"))
    assert members(RedisSubscriber) | hooks | {"send", "closed"} <= known


def test_every_attribute_of_a_hooks_request_is_documented() -> None:
    kinds = property | cached_property
    own = {name for name, value in vars(WebSocketRequest).items() if isinstance(value, kinds)}
    there = own | WebSocketRequest.__annotations__.keys()
    assert there == names(documented("hooks.md", "The request"))


# Commands and checks


def test_every_command_is_documented() -> None:
    known = names(documented("commands.md"))
    assert set(find_commands(str(PACKAGE / "management"))) <= known <= get_commands().keys()


def checks(source: ast.AST | None = None) -> set[str]:
    """Return the ids of the system checks in a piece of code, or of all."""
    files = sorted((PACKAGE / "checks").glob("*.py"))
    trees = [source] if source else [ast.parse(path.read_text()) for path in files]
    ids = [keyword.value for tree in trees for call in calls(tree, "Error", "Warning", "Info")
           for keyword in call.keywords if keyword.arg == "id"]  # fmt: skip
    return {constant for node in ids for constant in constants(node)}


def test_every_system_check_is_documented() -> None:
    """Those that run at deployment only stand apart."""
    register()
    deploy = {
        check
        for function in registry.deployment_checks
        if function.__module__.startswith("channels_ws4redis.checks.")
        for check in checks(ast.parse(inspect.getsource(function)))
    }
    assert names(documented("checks.md", "At deployment")) == deploy
    assert names(documented("checks.md", "Always")) == checks() - deploy


# Closing


def test_every_close_code_is_documented() -> None:
    there = {str(value) for value in vars(codes).values() if isinstance(value, int)}
    assert names(documented("closing.md", "Close codes")) == there


def test_every_answer_to_a_handshake_is_documented() -> None:
    """Those that this package gives; a refusal is 403 by the specification of ASGI."""
    ask = RequestFactory()
    answers = [upgrade_required(request, "x") for request in (ask.get("/ws/x"), ask.post("/ws/x"))]
    there = {403, *(answer.status_code for answer in answers)}
    for _, tree in trees("servers"):
        denials = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        there |= {
            getattr(ConnectionDeny, node.attr)
            for node in denials
            if isinstance(node.value, ast.Name) and node.value.id == "ConnectionDeny"
        }
    known = set(documented("closing.md", "Answers to the handshake"))
    assert known == {str(status) for status in there}


def log_lines() -> set[str]:
    """Return what is logged of a socket that is refused, closed or given less, without quotes."""
    lines = set()
    for name, tree in trees():
        # These may be raised, and passed on, anywhere.
        for call in calls(tree, "PermissionDenied"):
            lines.add(f"Refused the socket …: PermissionDenied: {pattern(call.args[0])}")
        for call in calls(tree, "RefusedError"):
            lines.add(f"Refused the socket …: {pattern(call.args[0])}")
        for call in calls(tree, "BusyError"):
            why = pattern(call.args[0])
            what = "Closing" if why.startswith("its client ") else "Cannot open"
            lines.add(f"{what} the socket …: {why}")
        lines |= {why for why in constants(tree) if why.startswith("its client ")}
        tells = "consumers.py", "serving/ending.py", "serving/subscriber_hooks.py", "handshake/"
        if not name.startswith(tells):
            continue
        for call in calls(tree, "warning", "error", "exception"):
            lines.add(pattern(call.args[0]))
        for call in calls(tree, "_log"):
            if "DEBUG" not in ast.dump(call):
                lines |= {f"{what} the socket …: …" for what in constants(call.args[0])}
    return lines


@pytest.mark.parametrize("line", sorted(log_lines()))
def test_every_log_line_of_a_closing_is_documented(line: str) -> None:
    assert line.replace("'", "") in text("closing.md").replace("'", "")


# Sockets


def test_every_flag_is_documented() -> None:
    there = {*RedisSubscriber.subscription_channels, *RedisSubscriber.publish_channels, "echo"}
    assert names(documented("url.md", "Flags")) == there


def test_every_audience_and_channel_and_label_is_documented() -> None:
    assert names(documented("url.md", "Audiences")) == set(AUDIENCES)
    channels = documented("url.md", "Channels")
    assert {name.partition(":")[0] for name in channels} == set(AUDIENCES)
    there = [
        channel_name("", audience, None if audience == "broadcast" else "x", "y")
        for audience in AUDIENCES
    ]
    labels = channel_labels("", [*there, "named:by:a:subscriber"]).values()
    known = documented("url.md", "Labels")
    assert {label.partition(":")[0] for label in labels} == {
        label.partition(":")[0] for label in known
    }


# JavaScript


def block(source: str, begin: str) -> str:
    """Return what stands between a line's opening brace and its closing one."""
    start = source.index(begin)
    indent = re.search(r"[ ]*$", source[:start])
    assert indent is not None
    end = source.index(f"\n{indent[0]}}}", start)
    return source[start:end]


def found_in(source: str, expression: str) -> set[str]:
    """Return what an expression finds on the lines of a piece of code."""
    return set(re.findall(expression, source, re.MULTILINE))


def declared(interface: str) -> set[str]:
    """Return the members of an interface in the TypeScript declarations."""
    body = block(TYPES, f"interface {interface} ")
    return found_in(body, r"^    (?:readonly )?(\w+)\??[(:<]")


def test_every_option_of_the_browser_client_is_documented() -> None:
    """Those that the code takes, and those that are declared for TypeScript."""
    (taken,) = re.findall(r"const \{\s+([^{}]+?),\s+\} = options;", SCRIPT)
    assert {name.split(" = ")[0] for name in taken.split(", ")} == declared("Options")
    replaced = found_in(block(SCRIPT, "function environment"), r"^      (\w+):")
    assert replaced == declared("Environment")
    assert names(documented("javascript.md", "Options")) == declared("Options") | replaced


def test_every_event_of_the_browser_client_is_documented() -> None:
    # The last three have the type of the frame that they tell of.
    emitted = set(re.findall(r"(?:emit|deliver)\('(\w+)'", SCRIPT)) | {"message", "lost", "purged"}
    assert emitted == declared("SocketEventMap")
    known = names(documented("javascript.md", "Events"))
    assert known == emitted | declared("Message")
    assert names(documented("javascript.md", "By attributes")) >= set(
        re.findall(r"dispatch\(document, '([\w:]+)'", SCRIPT)
    )


def test_every_attribute_of_the_script_element_is_documented() -> None:
    taken = re.findall(r"\bws4redis([A-Z]\w+)", SCRIPT)
    there = {f"data-ws4redis-{name.lower()}" for name in taken} | {"ws4redis:ready"}
    assert names(documented("javascript.md", "By attributes")) == there


def test_every_member_of_the_browser_client_is_documented() -> None:
    body = block(SCRIPT, "Object.assign(socket, ")
    there = declared("Socket")
    written = found_in(body, r"^        ([a-z]\w*)(?:\(|:)") | {"positions"}
    assert written == there - {"addEventListener", "removeEventListener"}
    known = names(documented("javascript.md", "Sockets"))
    assert known == there
    body = block(SCRIPT, "Object.assign(WS4Redis, ")
    static = {f"WS4Redis.{name}" for name in found_in(body, r"^    ([A-Za-z]\w*)[,:]")}
    assert static == {f"WS4Redis.{name}" for name in declared("Static") - {"new"}}
    assert static <= names(documented("javascript.md", "Opening a socket"))


def test_all_of_the_legacy_call_is_documented() -> None:
    body = block(SCRIPT, "function WS4Redis(")
    options = set(re.findall(r"callback\('(\w+)'|own\.(\w+)", body))
    methods = set(re.findall(r"this\.(\w+) = ", body))
    known = names(documented("javascript.md", "The call of django-websocket-redis"))
    assert known == {one or other for one, other in options} | methods
    assert declared("LegacySocket") == methods


def test_every_file_of_the_browser_client_is_documented() -> None:
    there = {f"js/{path.name}" for path in (PACKAGE / "static" / "js").iterdir()}
    assert names(documented("javascript.md", "Files")) == there


# The protocol


def frame_types(*, of_client: bool) -> set[str]:
    """Return the types of the frames of one side, by what the other side does with them."""
    if of_client:
        consumer = ast.parse((PACKAGE / "serving" / "receiving.py").read_text())
        compared = [node for node in ast.walk(consumer) if isinstance(node, ast.Compare)]
        return {
            constant
            for node in compared
            if isinstance(node.left, ast.Name) and node.left.id == "kind"
            for constant in constants(node)
        }
    heard = block(SCRIPT, "    function received(data)") + block(SCRIPT, "        received(frame)")
    return set(re.findall(r"\btype === '(\w+)'", heard))


def test_every_frame_is_documented() -> None:
    """With its members: those of the frames that are compared with a real server's."""
    client = {
        "hello": {"positions"},
        "subscribe": {"id", "facility", "flags", "positions"},
        "unsubscribe": {"id"},
        "publish": {"data", "base64", "id"},
    }
    known = names(documented("protocol.md", "Frames of the client"))
    there = frame_types(of_client=True) | {"pong"}
    assert known == there.union(*client.values())
    for kind, fields in client.items():
        assert names(documented("protocol.md", kind)) == {kind} | fields
    server = set(KEYS)
    assert frame_types(of_client=False) <= server
    extra = {"welcome": CHANNEL_KEYS, "message": {"base64", "id"}}
    for kind in server - {"ping", "pong"}:
        fields = KEYS[kind] - {"type"} | extra.get(kind, set())
        assert names(documented("protocol.md", kind)) == {kind} | fields
    assert server <= names(documented("protocol.md", "Frames of the server"))
    assert names(documented("protocol.md", "Frames of the server")) <= server.union(
        *KEYS.values(), *extra.values()
    )


def test_the_vectors_are_explained() -> None:
    (keys,) = {frozenset(vector) for vector in VECTORS.values()}
    (expected,) = {frozenset(vector["expect"]) for vector in VECTORS.values()}
    assert names(documented("protocol.md", "The stories")) == keys | expected


def test_the_stories_of_subscriptions_are_explained() -> None:
    steps = {key for story in SUBSCRIPTIONS for step in story["steps"] for key in step}
    (expected,) = {frozenset(told) for story in SUBSCRIPTIONS for told in story["expect"].values()}
    documented_keys = names(documented("protocol.md", "The stories of subscriptions"))
    assert documented_keys == steps - {"name"} | expected


def make_client(name: str = "Client") -> Callable[..., Any]:
    """Return a class of the client on the page of the protocol."""
    blocks = read_page(REFERENCE / "protocol.md", ROOT).blocks
    found: dict[str, Any] = {}
    for block in blocks:
        if block.argument in {"ws4redis_client.py", "ws4redis_page.py"}:
            exec(block.text.replace("from ws4redis_client import Client", ""), found)
    made: Callable[..., Any] = found[name]
    return made


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_the_client_of_the_page_understands_every_story(name: str) -> None:
    vector = VECTORS[name]
    client = make_client()(vector["positions"])
    hellos, told = [], []
    for frame in vector["frames"]:
        if frame["type"] == "welcome":
            hellos.append(dict(client.known))
        told += client.received(frame)
    assert vector["expect"] == {
        "hellos": hellos,
        "delivered": [{"channel": e[1], "data": e[2]} for e in told if e[0] == "message"],
        "lost": [event[1] for event in told if event[0] == "lost"],
        "recovered": [{"channel": e[1], "messages": e[2]} for e in told if e[0] == "recovered"],
        "positions": client.known,
    }


class Reader:
    """The page of the protocol's client, and what it would do with a link."""

    def __init__(self) -> None:
        self.page = make_client("Page")()
        self.sent: list[dict[str, Any]] = []
        self.told: list[Any] = []
        self.open: set[str] = set()
        self.later: list[str] = []

    def begin(self) -> None:
        self.open = set()
        self.sent += self.page.begin()

    def step(self, step: dict[str, Any]) -> None:
        """Do what the page does, or hear a frame."""
        if step.get("do") == "subscribe":
            name = step["name"]
            self.page.asked[name] = name, []
            self.page.clients.setdefault(name, make_client()())
            if self.page.names:
                self.sent.append(self.page.subscribe(name))
        elif step.get("do") == "unsubscribe":
            self.sent.append(self.page.unsubscribe(step["name"]))
            self.open.discard(step["name"])
        elif "cut" in step:
            self.begin()
        elif "after" in step:
            self.sent += map(self.page.subscribe, self.later)
        elif "frame" in step:
            if not self.page.names:
                self.begin()
            self.hear(step["frame"])
        else:
            wanted = [
                {"flags": [], **frame} if "facility" in frame else frame for frame in step["sent"]
            ]
            assert self.sent == wanted
            self.sent = []

    def hear(self, frame: dict[str, Any]) -> None:
        name = self.page.names.get(frame.get("id"))
        if frame["type"] in {"welcome", "subscribed"} and name is not None:
            self.open.add(name)
        for name, *event in self.page.received(frame):
            self.told.append((name, *event))
            if event[0] in {"refused", "ended"}:
                self.open.discard(name)
                if event[1] == 1008 or event[1] >= 4500:
                    del self.page.asked[name]
                else:
                    self.page.asked.setdefault(name, ("own", []))
                    self.later.append(name)

    def outcome(self, name: str) -> dict[str, Any]:
        events = [event for named, *event in self.told if named == name]
        kinds = [kind for kind, *_ in events]
        return {
            "delivered": [event[2] for event in events if event[0] == "message"],
            "lost": kinds.count("lost"),
            "purged": kinds.count("purged"),
            "revoked": sum(event[0] == "ended" and event[1] > 4500 for event in events),
            "open": name in self.open,
            "positions": self.page.clients[name].known,
        }


@pytest.mark.parametrize("story", SUBSCRIPTIONS, ids=lambda story: story["name"])
def test_the_page_of_the_page_understands_every_story(story: dict[str, Any]) -> None:
    reader = Reader()
    for step in story["steps"]:
        reader.step(step)
    assert {name: reader.outcome(name) for name in reader.page.clients} == story["expect"]


# Redis


def test_every_kind_of_key_and_pubsub_channel_is_documented() -> None:
    assert documented("redis-keys.md", "Keys")[:6] == [
        *commands.channel_keys("C", "<key>"),
        queues.queue_key("<channel>", ""),
        queues.members_key("<group>", ""),
    ]
    layer = RedisChannelLayer()
    there = {
        queues.queue_key("<channel>", ""),
        *layer._heard_in("C", is_fanout=True),
        *layer._heard_in("<group>", is_fanout=False),
        layer._pubsub_channel_of("<channel>"),
    }
    assert names(documented("redis-keys.md", "Pub/sub channels")) == there


@pytest.mark.server
def test_every_field_is_documented(redis_client: redis.Redis) -> None:
    """Those of a message that Redis has stored."""
    RedisPublisher(facility="x", broadcast=True).publish_message("y", version=1)
    [(_, fields)] = redis_client.xrange("{broadcast:x}:history")
    there = {*fields, *redis_client.hgetall("{broadcast:x}:meta")}
    assert names(documented("redis-keys.md", "Fields")) == {name.decode() for name in there}


@pytest.mark.server
async def test_the_permissions_are_enough_and_none_is_superfluous(settings: Any) -> None:
    """A user of Redis who may do what the page lists can publish, hear, read and stay linked."""
    listed = names(documented("redis-keys.md", "Permissions"))
    with RedisServer(port=0) as server:
        admin = redis.Redis.from_url(server.url)
        allowed = " ".join(f"+{command}" for command in listed)
        keys = "~{p:* ~p:* ~asgi.* &{p:* &p:* &asgi.*"
        admin.execute_command(
            f"ACL SETUSER them on >secret resetkeys resetchannels nocommands {keys} {allowed}"
        )
        settings.WS4REDIS_CONNECTION = server.url.replace("://", "://them:secret@")
        settings.WS4REDIS_PREFIX = "p"
        settings.WS4REDIS_HISTORY_BYTES = 1
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "channels_ws4redis.layers.RedisChannelLayer"}
        }
        channel_layers.backends.clear()
        await use_everything()
        # The first is asked for by redis-py, which does without.
        refused = {entry["object"] for entry in admin.acl_log()}
        assert refused <= {"client|setinfo"}
        used = {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}
        used |= {name.partition("|")[0] for name in used}
        assert listed - used == set()
        admin.close()
    channel_layers.backends.clear()


async def use_everything() -> None:
    """Publish, fetch, listen and use the channel layer, until the link has been tested once."""
    publisher = RedisPublisher(facility="x", broadcast=True)
    socket, late = (WebsocketCommunicator(router, "/ws/x?subscribe-broadcast") for _ in range(2))
    assert (await socket.connect())[0]
    for _ in range(2):
        await asyncio.to_thread(publisher.publish_message, "one", idempotency_key="k")
    await publisher.apublish_message("two", expire=0)
    assert [await socket.receive_from() for _ in range(2)] == ["one", "two"]
    assert (await late.connect())[0]
    assert await late.receive_from() == "one"
    await late.disconnect()
    assert await publisher.afetch_message(None, "x") == b"one"
    assert await publisher.acount_listeners() == 1
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "hello"})
    assert await layer.receive(channel) == {"type": "hello"}
    await layer.group_discard("group", channel)
    await use_a_queue(layer)
    assert await socket.receive_nothing(timeout=2.5)
    await socket.disconnect()
    await layer.flush()


async def use_a_queue(layer: RedisChannelLayer) -> None:
    """Send to a named channel, and to a group that it is in; receive, and break that off once."""
    await layer.group_add("group", "thumbnails")
    await layer.group_send("group", {"type": "hello"})
    await layer.group_discard("group", "thumbnails")
    receiving = asyncio.create_task(layer.receive("thumbnails"))
    await asyncio.sleep(0)  # it has asked for a message now, and the message is put back
    receiving.cancel()
    await asyncio.wait([receiving])
    assert await layer.receive("thumbnails") == {"type": "hello"}
    await layer.send("thumbnails", {"type": "again"})
    await layer.flush()  # while something is there to be deleted
