"""How a process ends its background tasks."""

import asyncio

from structlog.testing import capture_logs

from services.chassis.runtime import end


async def _survive(cancellations: int) -> None:
    """Go on as often as told, as a task does whose cancellation came out as some other error."""
    for _ in range(cancellations):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue
    await asyncio.sleep(60)


async def _begun(*survivals: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(_survive(number)) for number in survivals]
    await asyncio.sleep(0)
    return tasks


async def test_a_task_that_survives_its_cancellation_is_cancelled_again() -> None:
    tasks = await _begun(0, 1)
    with capture_logs() as logs:
        await end(tasks, within_s=60)
    assert [task.cancelled() for task in tasks] == [True, True]
    assert logs == []


async def test_one_that_never_ends_is_named_and_left() -> None:
    tasks = await _begun(0, 1_000_000)
    try:
        with capture_logs() as logs:
            await end(tasks, within_s=0.1)
        assert tasks[0].cancelled()
        assert not tasks[1].done()
        assert [(line["event"], line["task"]) for line in logs] == [("task_not_ended", "_survive")]
    finally:
        tasks[1].get_coro().close()  # else the event loop would wait for it at its own end, without end


async def test_how_a_task_failed_before_does_not_matter() -> None:
    async def fail() -> None:
        raise ValueError

    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    await end([task])
