"""Scenes with a process of the engine in them: `played(scene, folder, EngineProcess)`."""

import asyncio

PATIENCE = 120


def played(scene, folder, kind):
    """Run `await scene(engine)` on a started engine, which is stopped whatever happens."""

    async def play():
        engine = kind(folder)
        await engine.start()
        try:
            await asyncio.wait_for(scene(engine), PATIENCE)
        finally:
            await engine.stop()

    asyncio.run(play())


async def ids(stream):
    return [token.id async for tokens in stream for token in tokens]
