import pytest

from pynanochat import _C


@pytest.fixture(params=_C.cpu_isas())
def isa(request):
    """Every instruction set of this CPU in turn, as the one that kernels use."""
    before = _C.cpu_isa()
    _C.set_cpu_isa(request.param)
    yield request.param
    _C.set_cpu_isa(before)
