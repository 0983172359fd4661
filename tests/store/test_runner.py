"""Running scripts on the process's client and on the loop's runner: replies, faults, forks."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
import traceback

import pytest
import redis
from django.test import override_settings

from channels_ws4redis.store import clients, silence
from channels_ws4redis.store import runner as runners
from channels_ws4redis.store.process import get_client, this_process
from channels_ws4redis.store.runner import get_runner
from channels_ws4redis.store.scripts import Command, Script
from channels_ws4redis.store.silence import NoAnswerError
from testproject.embedded import RedisServer
from tests.silent import frozen_server, gone_server
from tests.torture.proxy import Proxy

ECHO = Script("return {ARGV[1], KEYS[1]}")
COUNT = Script("return redis.call('INCR', KEYS[1])")
FAIL = Script("return redis.call('INCR')")
#: Takes some milliseconds, so that several threads need a connection each.
SLOW = Script("for _ = 1, 1000000 do end return 1")


@pytest.fixture
def server():
    """A server of the test's own, to stop and to pause."""
    with RedisServer(port=0) as server:
        yield server


def run(commands):
    """Run commands on the synchronous client."""
    return runners.run(get_client(), commands)


async def arun(commands):
    """Run commands on the loop's runner."""
    return await get_runner().run(commands)


@pytest.fixture(params=["sync", "async"])
def either(request):
    """Both ways to run commands, as a coroutine function."""

    async def call(commands):
        if request.param == "async":
            return await arun(commands)
        return await asyncio.to_thread(run, commands)  # the event loop may have a proxy to run

    return call


async def test_replies(either):
    """Replies come in the order of the commands, errors among them without spoiling the others."""
    replies = await either(
        [
            Command(ECHO, ["key"], [b"\xff"]),
            Command(FAIL, ["key"], []),
            Command(COUNT, ["count"], []),
            Command(COUNT, ["count"], []),
        ]
    )
    assert replies[0] == [b"\xff", b"key"]
    assert isinstance(replies[1], redis.exceptions.ResponseError)
    assert replies[2:] == [1, 2]
    assert await either([]) == []


async def test_script_flush(either, redis_client):
    """A Redis that has forgotten the scripts is told again, and nothing runs twice."""
    await either([Command(COUNT, ["count"], [])])
    redis_client.script_flush()
    assert await either([Command(COUNT, ["count"], []), Command(COUNT, ["count"], [])]) == [2, 3]


async def test_some_scripts_are_unknown(either, redis_client):
    """Only what has not run is run again once its script has been loaded."""
    await either([Command(COUNT, ["count"], [])])
    fresh = Script(f"return {time.time_ns()}")
    replies = await either([Command(COUNT, ["count"], []), Command(fresh, [], [])])
    assert replies[0] == 2
    assert redis_client.get("count") == b"2"


async def test_restart(either, server):
    """After a restart of Redis everything works on, with scripts that it does not know any more."""
    with override_settings(WS4REDIS_CONNECTION=server.url):
        script = Script("return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')")
        before = await either([Command(script, [], [])])
        await asyncio.to_thread(server.restart)  # the loop notices that its connection is closed
        after = await either([Command(script, [], [])])
        assert before != after


async def test_killed_connections(either, redis_client):
    """A connection that Redis has closed is replaced without an error."""
    await either([Command(COUNT, ["count"], [])])
    kill = "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"
    await asyncio.to_thread(redis_client.execute_command, *kill)
    assert await either([Command(COUNT, ["count"], [])]) == [2]


async def test_redis_is_down(either, free_port):
    """With Redis down a command fails at once, as redis-py's ConnectionError."""
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": free_port}):
        began = time.monotonic()
        with pytest.raises(redis.exceptions.ConnectionError):
            await either([Command(COUNT, ["count"], [])])
        assert time.monotonic() - began < 2


async def test_redis_hangs(either, server):
    """A Redis that does not answer is given up after the timeout, and works again afterwards."""
    connection = {"url": server.url, "socket_timeout": 0.2}
    with override_settings(WS4REDIS_CONNECTION=connection):
        await either([Command(COUNT, ["count"], [])])
        server.pause()
        try:
            with pytest.raises(redis.exceptions.TimeoutError, match="Timeout reading") as caught:
                await either([Command(COUNT, ["count"], [])])
            assert isinstance(caught.value, redis.exceptions.ConnectionError)
        finally:
            server.resume()
        await asyncio.to_thread(runners.look_again, get_client())
        replies = await either([Command(COUNT, ["count"], [])])
        assert replies[0] in (2, 3)  # whether the one that timed out was run only Redis knows


async def require(commands):
    """Run commands on the loop's runner for somebody who must not wait for a silent Redis."""
    await get_runner().require_answers()
    return await arun(commands)


@pytest.fixture(params=["sync", "async"])
def hurried(request):
    """Both ways to run commands for a page."""

    async def call(commands):
        if request.param == "async":
            return await require(commands)
        return await asyncio.to_thread(run, commands)

    return call


async def test_nobody_waits_for_a_silent_redis_again(hurried, server, caplog, monkeypatch):
    """One waits, the others fail at once, one at a time looks, and all work once it answers.

    Those who fail are told of the time since the one asked who has waited: 0.2 seconds for that,
    and as long for a look.
    """
    connection = {"url": server.url, "socket_timeout": 0.2}
    count = [Command(COUNT, ["count"], [])]
    with override_settings(WS4REDIS_CONNECTION=connection):
        await hurried(count)
        server.pause()
        try:
            with pytest.raises(NoAnswerError, match="Timeout reading"):
                await hurried(count)
            began = time.monotonic()
            for _ in range(50):
                with pytest.raises(NoAnswerError, match=r"for 0\.[4-9] s; it was not asked again"):
                    await hurried(count)
            assert time.monotonic() - began < 1
            monkeypatch.setattr(silence, "PAUSE", 0.0)
            with pytest.raises(NoAnswerError):
                await hurried(count)
        finally:
            server.resume()
        await until_answered(hurried, count)
        lines = [each for each in caplog.messages if " lost the " in each or " is back " in each]
        assert len(lines) == 2


async def test_a_redis_that_lets_scripts_wait_is_silent(hurried, server):
    """As while a replica takes over; it answers a PING all the same."""
    count = [Command(COUNT, ["count"], [])]
    with (
        override_settings(WS4REDIS_CONNECTION={"url": server.url, "socket_timeout": 0.2}),
        redis.Redis.from_url(server.url) as client,
    ):
        await hurried(count)
        client.client_pause(60_000, all=False)
        assert client.ping()
        with pytest.raises(NoAnswerError, match="Timeout reading"):
            await hurried(count)
        with pytest.raises(NoAnswerError, match="not asked again"):
            await hurried(count)
        client.client_unpause()


async def until_answered(call, commands):
    """Run commands until Redis is known to answer."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await call(commands)
            except NoAnswerError:
                await asyncio.sleep(0.05)


async def test_a_command_of_the_fanout_looks_at_a_silent_redis(server):
    """What may wait is sent all the same, and its answer lets the others in."""
    count = [Command(COUNT, ["count"], [])]
    with override_settings(WS4REDIS_CONNECTION={"url": server.url, "socket_timeout": 0.2}):
        server.pause()
        try:
            with pytest.raises(NoAnswerError):
                await arun(count)
            with pytest.raises(NoAnswerError, match="not asked again"):
                await require(count)
        finally:
            server.resume()
        await arun(count)
        await require(count)


async def test_a_connection_that_is_silent_alone(hurried, server, proxy):
    """It is given up, and nobody is turned away, as a new one is answered."""
    connection = {"host": "127.0.0.1", "port": proxy.port, "socket_timeout": 0.3}
    with override_settings(WS4REDIS_CONNECTION=connection):
        assert await hurried([Command(COUNT, ["count"], [])]) == [1]
        proxy.stall()
        with pytest.raises(NoAnswerError, match="Timeout reading"):
            await hurried([Command(COUNT, ["count"], [])])
        assert await hurried([Command(COUNT, ["count"], [])]) == [2]


@pytest.mark.parametrize("silent", [gone_server, frozen_server])
async def test_redis_is_silent(either, silent):
    """A host that swallows all that is sent to it is a timeout, and cannot be reached either."""
    connection = {"host": "127.0.0.1", "socket_connect_timeout": 0.2, "socket_timeout": 0.2}
    with silent() as port, override_settings(WS4REDIS_CONNECTION=connection | {"port": port}):
        with pytest.raises(redis.exceptions.TimeoutError, match="Timeout") as caught:
            await either([Command(COUNT, ["count"], [])])
        assert isinstance(caught.value, redis.exceptions.ConnectionError)


@pytest.fixture
async def proxy(server):
    """A name, behind which the server can be replaced by another one."""
    proxy = Proxy(server.port)
    await proxy.start()
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": proxy.port}):
        yield proxy
    await proxy.close()


async def test_another_server_is_in_charge(either, server, proxy):
    """Behind one name a replica takes over, while connections to the old primary stay open."""
    with RedisServer(port=0) as other:
        for expected in (1, 2):
            assert await either([Command(COUNT, ["count"], [])]) == [expected]
        with redis.Redis.from_url(server.url) as client:
            client.replicaof("127.0.0.1", other.port)
        proxy.lead_to(other.port)
        for expected in (1, 2):
            assert await either([Command(COUNT, ["count"], [])]) == [expected]


async def test_the_link_goes_silent(either, server, proxy):
    """One timeout is enough: other connections to the same host are not tried one by one."""
    connection = {"host": "127.0.0.1", "port": proxy.port, "socket_timeout": 0.5}
    with override_settings(WS4REDIS_CONNECTION=connection):
        await asyncio.gather(*(either([Command(SLOW, [], [])]) for _ in range(4)))
        proxy.stall()
        with pytest.raises(NoAnswerError):
            await either([Command(COUNT, ["count"], [])])
        for expected in (1, 2, 3, 4):
            assert await either([Command(COUNT, ["count"], [])]) == [expected]


async def test_a_firewall_forgets_idle_connections(either, server, proxy, monkeypatch):
    """What nobody has used for a minute is not used any more, as it may be silent for ever."""
    await asyncio.gather(*(either([Command(COUNT, ["count"], [])]) for _ in range(4)))
    for module in (clients, runners):
        monkeypatch.setattr(module, "MAX_PAUSE", 0.0)
    proxy.stall()
    began = time.monotonic()
    assert await either([Command(COUNT, ["count"], [])]) == [5]
    assert time.monotonic() - began < 2


#: How a server answers that does not run commands, or not for this connection.
REFUSALS = [
    "READONLY You can't write against a read only replica.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "MOVED 1 127.0.0.1:1",
    "NOREPLICAS Not enough good replicas to write.",
    "UNBLOCKED force unblock from blocking operation, instance state changed",
]


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refusal_ends_the_connection(either, redis_client, refusal):
    """What is refused is sent once more on a new connection; it has not run, and nothing else is.

    If it is refused there too, that is the reply, and the next command connects anew.
    """
    script = Script(f'return redis.error_reply("{refusal}")')
    await either([Command(script, [], [])])
    await either([Command(COUNT, ["count"], [])])
    before = connections_received(redis_client)
    replies = await either(
        [
            Command(COUNT, ["count"], []),
            Command(script, [], []),
            Command(COUNT, ["count"], []),
        ]
    )
    assert [replies[0], replies[2]] == [2, 3]
    assert isinstance(replies[1], redis.exceptions.ResponseError)
    assert connections_received(redis_client) == before + 1
    assert await either([Command(COUNT, ["count"], [])]) == [4]
    assert connections_received(redis_client) == before + 2


async def test_what_has_run_has_not_failed(proxy, free_port):
    """A coroutine gets its reply, though what another sent along with it has to go elsewhere."""
    await arun([Command(COUNT, ["count"], [])])
    proxy.lead_to(free_port)
    script = Script("return redis.error_reply('READONLY of this test')")
    commands = [Command(COUNT, ["count"], []), Command(script, [], [])]
    running = [arun([command]) for command in commands]
    done, failed = await asyncio.gather(*running, return_exceptions=True)
    assert done == [2]
    assert isinstance(failed, redis.exceptions.ConnectionError)


@pytest.mark.parametrize("refusal", ["LOADING Redis is loading", "NOAUTH Authentication required."])
async def test_a_server_that_is_not_ready_ends_the_connection(either, redis_client, refusal):
    """It is raised as what it is, and the next command connects anew."""
    await either([Command(COUNT, ["count"], [])])
    before = connections_received(redis_client)
    script = Script(f'return redis.error_reply("{refusal}")')
    with pytest.raises(redis.exceptions.ConnectionError, match=refusal.partition(" ")[2]):
        await either([Command(script, [], [])])
    assert await either([Command(COUNT, ["count"], [])]) == [2]
    assert connections_received(redis_client) == before + 1


async def test_other_errors_leave_the_connection_alone(either, redis_client):
    """Another connection would change nothing about them."""
    await either([Command(COUNT, ["count"], [])])
    before = connections_received(redis_client)
    for code in ("OOM command not allowed", "WRONGTYPE Operation", "MISCONF Redis is", "ERR no"):
        script = Script(f'return redis.error_reply("{code}")')
        assert isinstance((await either([Command(script, [], [])]))[0], Exception)
    assert connections_received(redis_client) == before


async def test_a_replica_of_nobody_is_promoted(either, server, free_port):
    """MASTERDOWN of a real server, until it is a primary."""
    with override_settings(WS4REDIS_CONNECTION=server.url), redis.Redis.from_url(server.url) as it:
        it.config_set("replica-serve-stale-data", "no")
        it.replicaof("127.0.0.1", free_port)
        (reply,) = await either([Command(COUNT, ["count"], [])])
        assert isinstance(reply, redis.exceptions.ResponseError)
        it.replicaof("NO", "ONE")
        assert await either([Command(COUNT, ["count"], [])]) == [1]


async def test_a_primary_without_its_replicas(either, server):
    """NOREPLICAS of a real server, until it may write alone."""
    with override_settings(WS4REDIS_CONNECTION=server.url), redis.Redis.from_url(server.url) as it:
        it.config_set("min-replicas-to-write", 1)
        (reply,) = await either([Command(COUNT, ["count"], [])])
        assert isinstance(reply, redis.exceptions.ResponseError)
        it.config_set("min-replicas-to-write", 0)
        assert await either([Command(COUNT, ["count"], [])]) == [1]


class Rotated(redis.CredentialProvider):
    """Gives the password of the moment."""

    password = "first"

    def get_credentials(self):
        return (self.password,)


async def test_a_password_is_rotated(either, redis_client):
    """A connection that has become a stranger's is made anew, with the password of the moment."""
    with RedisServer(port=0, password="first") as server:
        connection = {"host": "127.0.0.1", "port": server.port, "credential_provider": Rotated()}
        with override_settings(WS4REDIS_CONNECTION=connection):
            assert await either([Command(COUNT, ["count"], [])]) == [1]
            with redis.Redis.from_url(server.url) as client:
                client.config_set("requirepass", "second")
                kill = "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"
                await asyncio.to_thread(client.execute_command, *kill)
            with pytest.raises(redis.exceptions.AuthenticationError):
                await either([Command(COUNT, ["count"], [])])
            connection["credential_provider"].password = "second"
            assert await either([Command(COUNT, ["count"], [])]) == [2]


async def test_coroutines_share_a_pipeline(redis_client):
    """What many coroutines ask for at once goes through one connection in a few pipelines."""
    await arun([Command(COUNT, ["count"], [])])
    before = redis_client.info("stats")
    replies = await asyncio.gather(*(arun([Command(COUNT, ["count"], [])]) for _ in range(500)))
    after = redis_client.info("stats")
    assert sorted(reply for (reply,) in replies) == list(range(2, 502))
    assert after["total_connections_received"] == before["total_connections_received"]
    assert after["total_reads_processed"] - before["total_reads_processed"] < 50


async def test_cancelled_caller():
    """Whoever is cancelled while waiting leaves the others alone."""
    await arun([Command(COUNT, ["count"], [])])
    tasks = [asyncio.create_task(arun([Command(COUNT, ["count"], [])])) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks[1].cancel()
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(replies[1], asyncio.CancelledError)
    assert [replies[0], replies[2]] == [[2], [4]]
    assert await arun([Command(COUNT, ["count"], [])]) == [5]


async def test_commands_that_cannot_be_sent():
    """A command that cannot even be encoded fails by itself; the runner works on."""
    outcomes = await arun([Command(ECHO, ["\ud800"], ["x"])])
    assert isinstance(outcomes[0], UnicodeEncodeError)
    assert await arun([Command(COUNT, ["count"], [])]) == [1]


async def test_a_command_that_cannot_be_sent_fails_alone(redis_client):
    """Those of others that would have left together with it are run, and each of them once."""
    good = [arun([Command(COUNT, ["count"], [])]) for _ in range(4)]
    bad = arun([Command(ECHO, ["\ud800"], ["x"])])
    *counts, (error,) = await asyncio.gather(*good, bad)
    assert isinstance(error, UnicodeEncodeError)
    assert counts == [[1], [2], [3], [4]]
    assert redis_client.get("count") == b"4"


async def test_close_and_reopen(redis_client):
    """A closed runner opens again when it is used."""
    runner = get_runner()
    assert await runner.run([Command(COUNT, ["count"], [])]) == [1]
    await runner.close()
    assert await runner.run([Command(COUNT, ["count"], [])]) == [2]


@pytest.mark.parametrize("turns", range(5))
async def test_close_while_busy(turns):
    """Closing a runner fails those who wait for it, leaves nobody waiting, and it opens again."""
    runner = get_runner()
    waiting = [asyncio.create_task(runner.run([Command(COUNT, ["a"], [])])) for _ in range(3)]
    for _ in range(turns):
        await asyncio.sleep(0)
    closing = asyncio.create_task(runner.close())
    await asyncio.sleep(0)
    later = asyncio.create_task(runner.run([Command(COUNT, ["b"], [])]))
    async with asyncio.timeout(5):
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, list | redis.exceptions.ConnectionError)
        await closing
        assert isinstance(
            (await asyncio.gather(later, return_exceptions=True))[0], list | Exception
        )
        assert isinstance((await runner.run([Command(COUNT, ["c"], [])]))[0], int)


def test_connection_ends_with_its_loop(redis_client):
    """A loop that ends closes its runner: no connection is left, and nothing warns."""

    def ours():
        return [client for client in redis_client.client_list() if client["name"] == ""]

    before = len(ours())
    for _ in range(3):
        assert len(asyncio.run(arun([Command(ECHO, ["a"], ["b"])]))) == 1
    assert len(ours()) <= before


async def test_a_connection_is_renewed_while_others_run_commands(redis_client):
    """The next exchange has another one, and no command meets one that is half closed."""

    def connections():
        return {each["id"] for each in redis_client.client_list(_type="normal")}

    await arun([Command(COUNT, ["count"], [])])
    before, waiting = connections(), []
    for _ in range(50):
        waiting.append(asyncio.create_task(arun([Command(COUNT, ["count"], [])])))
        await asyncio.sleep(0)
        get_runner().renew()
        await asyncio.sleep(0)
    replies = [(await each)[0] for each in waiting]
    assert sorted(replies) == list(range(2, 52))
    await arun([Command(COUNT, ["count"], [])])
    assert len(connections() - before) == len(before - connections()) == 1


async def test_runner_follows_the_settings(server, redis_client):
    """So does the event loop's runner."""
    runner = get_runner()
    assert get_runner() is runner
    await runner.run([Command(COUNT, ["count"], [])])
    with override_settings(WS4REDIS_CONNECTION=server.url):
        other = get_runner()
        assert other is not runner
        assert await other.run([Command(COUNT, ["count"], [])]) == [1]
    assert await get_runner().run([Command(COUNT, ["count"], [])]) == [2]
    assert redis_client.get("count") == b"2"


def connections_received(client):
    """Return how many connections Redis has ever been asked for."""
    return client.info("stats")["total_connections_received"]


def test_a_connection_is_kept(redis_client):
    """Running scripts one after the other opens no connection after the first."""
    run([Command(COUNT, ["count"], [])])
    before = connections_received(redis_client)
    for _ in range(20):
        run([Command(COUNT, ["count"], [])])
    assert connections_received(redis_client) == before


def test_threads_have_connections_of_their_own(redis_client):
    """Each thread gets its own replies, and there are no more connections than threads."""
    before = connections_received(redis_client)
    wrong = []

    def work(name):
        for number in range(200):
            reply = run([Command(ECHO, [name], [number])])
            if reply != [[b"%d" % number, name.encode()]]:
                wrong.append(reply)

    threads = [threading.Thread(target=work, args=[f"thread {n}"]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert connections_received(redis_client) - before <= 8


def test_an_interrupted_exchange_spoils_nothing(server):
    """Whoever is interrupted while waiting leaves no reply for the next one to take for its own."""
    with override_settings(WS4REDIS_CONNECTION=server.url):
        run([Command(ECHO, ["a"], ["x"])])
        pool = this_process().pool_of(get_client())
        connection = pool.take()
        pool.give_back(connection)
        read = connection.read_response

        def interrupted(*args, **kwargs):
            connection.read_response = read
            raise KeyboardInterrupt

        connection.read_response = interrupted
        with pytest.raises(KeyboardInterrupt):
            run([Command(ECHO, ["b"], ["x"])])
        assert run([Command(ECHO, ["c"], ["x"])]) == [[b"x", b"c"]]


def _run_in_child(pipe):
    for number in range(200):
        if run([Command(ECHO, ["child"], [number])]) != [[b"%d" % number, b"child"]]:
            pipe.send("the child got a reply that was not its own")
            return
    pipe.send("ok")


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_uses_no_connection_of_its_parent():
    """Parent and child run scripts at the same time and each gets its own replies."""
    run([Command(ECHO, ["parent"], ["x"])])
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_run_in_child, args=[theirs])
    child.start()
    for number in range(200):
        assert run([Command(ECHO, ["parent"], [number])]) == [[b"%d" % number, b"parent"]]
    assert ours.poll(20)
    assert ours.recv() == "ok"
    child.join(10)
    assert child.exitcode == 0
    assert run([Command(ECHO, ["parent"], ["x"])]) == [[b"x", b"parent"]]


def sender() -> asyncio.Task:
    """Return the task that sends for the loop's runner."""
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "ws4redis-sender"]
    return task


async def test_a_sender_that_is_cancelled_before_its_first_step_stops_nobody():
    """What has not been sent is sent by the next one."""
    waiting = asyncio.create_task(arun([Command(COUNT, ["count"], [])]))
    await asyncio.sleep(0)
    sender().cancel()
    async with asyncio.timeout(5):
        assert await waiting == [1]
        assert await arun([Command(COUNT, ["count"], [])]) == [2]


async def test_a_sender_that_is_cancelled_leaves_nobody_waiting(server):
    """Whether what has been sent was done is not known; what has not been sent is sent."""
    with override_settings(WS4REDIS_CONNECTION=server.url):
        await arun([Command(COUNT, ["count"], [])])
        server.pause()
        sent = asyncio.create_task(arun([Command(ECHO, ["a"], ["b"])]))
        await asyncio.wait([sent], timeout=0.1)
        unsent = asyncio.create_task(arun([Command(COUNT, ["count"], [])]))
        await asyncio.wait([unsent], timeout=0.1)
        sender().cancel()
        server.resume()
        async with asyncio.timeout(5):
            with pytest.raises(redis.exceptions.ConnectionError, match="interrupted"):
                await sent
            assert await unsent == [2]


async def test_errors_name_nothing_but_their_cause(either, free_port):
    """The first thing that an operator reads of a Redis that is down is that it is down."""
    with override_settings(WS4REDIS_CONNECTION={"host": "127.0.0.1", "port": free_port}):
        for _ in range(2):
            with pytest.raises(redis.exceptions.ConnectionError) as raised:
                await either([Command(COUNT, ["count"], [])])
            assert "IndexError" not in "".join(traceback.format_exception(raised.value))
