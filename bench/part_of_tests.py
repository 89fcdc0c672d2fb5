"""A plugin of pytest: PYNANOCHAT_PART=2/6 runs the second sixth of the tests that were selected.

Tests of one backend and dtype stay together, as they share compiled kernels.
"""

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    part, parts = map(int, os.environ["PYNANOCHAT_PART"].split("/"))
    by_kernel = sorted(items, key=kernel_of)
    first, end = (len(items) * n // parts for n in (part - 1, part))
    config.hook.pytest_deselected(items=by_kernel[:first] + by_kernel[end:])
    items[:] = by_kernel[first:end]


def kernel_of(item) -> tuple[str, str]:
    said = getattr(item, "callspec", None)
    return tuple(str(said.params.get(name, "")) if said else "" for name in ("backend", "dtype"))
