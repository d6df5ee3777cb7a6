"""The gate: many together or one alone, in the order asked."""

import asyncio

from deltaic.store.gate import Gate


async def test_nobody_is_inside_with_one_who_is_alone() -> None:
    gate, inside, together = Gate(), [], []

    async def share(number: int) -> None:
        async with gate.shared():
            inside.append(number)
            await asyncio.sleep(0)
            together.append(set(inside))
            inside.remove(number)

    async def alone(number: int) -> None:
        async with gate.alone():
            inside.append(number)
            for _ in range(5):
                await asyncio.sleep(0)
                assert inside == [number]
            inside.remove(number)

    visits = [alone(number) if number % 5 == 0 else share(number) for number in range(60)]
    await asyncio.gather(*visits)
    assert max(map(len, together)) > 1, "those who share never met"
    assert inside == []


async def test_one_who_wants_to_be_alone_is_not_overtaken_for_ever() -> None:
    gate, order = Gate(), []

    async def share(name: str, until: asyncio.Event) -> None:
        async with gate.shared():
            order.append(name)
            await until.wait()

    async def alone() -> None:
        async with gate.alone():
            order.append("alone")

    leave, at_once = asyncio.Event(), asyncio.Event()
    at_once.set()
    first = asyncio.create_task(share("first", leave))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(alone())
    await asyncio.sleep(0)
    late = asyncio.create_task(share("late", at_once))
    await asyncio.sleep(0)
    leave.set()
    await asyncio.gather(first, waiting, late)
    assert order == ["first", "alone", "late"]


async def test_one_who_gives_up_waiting_blocks_nobody() -> None:
    gate = Gate()
    async with gate.shared():
        waiting = asyncio.create_task(gate.alone().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(5):
            async with gate.shared():
                pass
    async with asyncio.timeout(5):
        async with gate.alone():
            pass
