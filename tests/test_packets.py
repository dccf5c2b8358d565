"""An answer leaves in one packet, whatever pieces it was written in."""

import asyncio

from app.connections import Gathered


class Wire:
    """A transport that keeps what it was given."""

    def __init__(self) -> None:
        self.sent, self.closed = list[bytes](), False

    def write(self, piece: bytes) -> None:
        assert not self.closed
        self.sent.append(piece)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_what_is_written_in_one_turn_leaves_together_and_in_order() -> None:
    async def answers() -> list[bytes]:
        wire = Wire()
        transport = Gathered(wire)
        for answer in ("first", "second"):
            transport.write(f"head of the {answer}, ".encode())
            transport.write(f"body of the {answer}".encode())
            await asyncio.sleep(0)
        return wire.sent

    assert asyncio.run(answers()) == [
        b"head of the first, body of the first",
        b"head of the second, body of the second",
    ]


def test_a_connection_is_closed_behind_what_was_written_to_it() -> None:
    async def closed() -> Wire:
        wire = Wire()
        transport = Gathered(wire)
        transport.write(b"the last ")
        transport.write(b"answer")
        transport.close()
        assert transport.is_closing()
        await asyncio.sleep(0)
        return wire

    assert asyncio.run(closed()).sent == [b"the last answer"]


def test_nothing_is_written_to_a_connection_that_was_lost_meanwhile() -> None:
    async def lost() -> list[bytes]:
        wire = Wire()
        Gathered(wire).write(b"an answer")
        wire.close()
        await asyncio.sleep(0)
        return wire.sent

    assert asyncio.run(lost()) == []
