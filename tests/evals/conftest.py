"""Models here are as small as those of the engine's tests."""

from tests.engine.conftest import one_thread  # noqa: F401
