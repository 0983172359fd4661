"""Counting the sockets that hear a channel, in all processes.

Redis knows which processes hear a channel, and only they know how many sockets of theirs do. So
whoever wants to know asks them: a question goes the way of the channel's messages, and each answers
under a key that the question names. Nothing is kept for the day on which somebody asks.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from channels_ws4redis.protocol.messages import Question
from channels_ws4redis.protocol.texts import shown
from channels_ws4redis.store.clients import UNREACHABLE
from channels_ws4redis.store.commands import (
    answer_command,
    answers_command,
    question_command,
)
from channels_ws4redis.store.process import get_client
from channels_ws4redis.store.refusals import SCRIPTS_NEED, explained
from channels_ws4redis.store.runner import get_runner
from channels_ws4redis.store.scripts import Command, Reply, Result

logger = logging.getLogger(__name__)

#: Seconds for which answers are waited for, and once more after a second question: somebody who was
#: just leaving the channel when the first came counts among those who have to answer, and does not.
TRIES = 0.1, 0.9

#: Seconds between looks for answers; each is twice as long as the one before, up to the last.
FIRST_PAUSE, LAST_PAUSE = 0.002, 0.05


class Count:
    """One question about each of some channels, and what has been answered.

    :param channels: names of channels.
    :param client: of redis-py, as whom it is asked.
    """

    def __init__(self, channels: Sequence[str], client: Any) -> None:
        self._client = client
        token = uuid.uuid4().hex
        self._questions = {name: Question(name, token) for name in channels}
        #: How many sockets hear each channel, as far as the answers say.
        self.counts = dict.fromkeys(channels, 0)
        #: How many answers there will be, for each channel that is not answered yet.
        self._due: dict[str, float] = dict.fromkeys(channels, math.inf)

    @property
    def answered(self) -> bool:
        """True once all answers have come. Where nobody can tell how many there are, it is not."""
        return not self._due

    @property
    def questions(self) -> Sequence[Question]:
        """What has to be sent to all processes."""
        return list(self._questions.values())

    def commands(self, prefix: str) -> list[Command]:
        """Return the commands that ask, where a script sends; `asked` takes the replies."""
        return [question_command(question, prefix) for question in self.questions]

    def asked(self, replies: Sequence[Result]) -> None:
        """Take note of how many processes have got the question, as far as Redis can tell.

        :raises redis.exceptions.ResponseError: if Redis has refused it.
        """
        receivers = zip(self.counts, self._require(replies), strict=True)
        self._due = {name: count for name, count in receivers if count}

    def looks(self, seconds: float) -> Iterator[tuple[float, list[Command]]]:
        """Yield, until all is answered or the time is over, how long to wait and what to run then.

        `take` takes the replies. Seconds are those that are waited, however long Redis takes.
        """
        pause = FIRST_PAUSE
        while self._due and seconds > 0:
            commands = [answers_command(self._questions[name]) for name in self._due]
            yield min(pause, seconds), commands
            seconds, pause = seconds - pause, min(2 * pause, LAST_PAUSE)

    def take(self, replies: Sequence[Result]) -> None:
        """Take the answers that have come.

        :raises redis.exceptions.ResponseError: if Redis has refused to tell.
        """
        for name, answers in zip(tuple(self._due), self._require(replies), strict=True):
            self.counts[name] = sum(int(fields[1]) for _, fields in answers)
            if len(answers) >= self._due[name]:
                del self._due[name]

    def _require(self, replies: Sequence[Result]) -> Sequence[Reply]:
        for name, reply in zip(self._due, replies, strict=True):
            if isinstance(reply, Exception):
                action = f"ask how many hear {shown(name)}"
                raise explained(reply, self._client, action, SCRIPTS_NEED)
        return replies


async def answer(question: Question, sockets: int) -> None:
    """Answer how many sockets of this event loop hear the channel of a question."""
    channel = question.channel
    try:
        (reply,) = await get_runner().run([answer_command(question, sockets)])
    except UNREACHABLE as error:
        logger.debug("Nobody hears how many hear %s: %s", shown(channel), error)
        return
    if isinstance(reply, Exception):
        action = f"answer how many hear {shown(channel)}"
        refusal = explained(reply, get_client(), action, SCRIPTS_NEED)
        logger.warning("The sockets of this process do not count: %s", refusal)
