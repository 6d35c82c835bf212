"""What a step gives out, in order, with the numbers that its log records have (CONS-60)."""

from typing import Generic, TypeVar

from supervm.plugins.consensus.bft.events import Everyone, Log, Record, Send, Stream
from supervm.plugins.consensus.bft.messages import Message

Output = TypeVar("Output")


class Outbox(Generic[Output]):
    """Gathers a step's outputs. Several machines that share one share the numbering of its records."""

    def __init__(self) -> None:
        self._outputs: list[Output | Log | Send] = []
        self.logged = 0

    def log(self, record: Record) -> None:
        self.logged += 1
        self._outputs.append(Log(self.logged, record))

    def vote(self, to: tuple[bytes, ...], message: Message) -> None:
        """Send what rests on everything logged so far: it leaves when that is durable."""
        self._outputs.append(Send(to, message, Stream.DISSEMINATION, self.logged))

    def send(
        self,
        to: tuple[bytes, ...] | Everyone,
        message: Message,
        stream: Stream = Stream.DISSEMINATION,
    ) -> None:
        """Send what promises nothing."""
        self._outputs.append(Send(to, message, stream))

    def put(self, output: Output) -> None:
        self._outputs.append(output)

    def take(self) -> list[Output | Log | Send]:
        """The outputs so far; they are given once."""
        outputs, self._outputs = self._outputs, []
        return outputs
