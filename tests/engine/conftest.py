from pathlib import Path

import pytest
import torch

from pynanochat.engine import process, scheduler
from tests.engine.playing import PATIENCE

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def one_thread():
    """Models here are so small that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[False, True], ids=["waiting", "ahead"])
def ahead(request):
    """Schedulers that read a step before they launch the next, as on a CPU, and those that do not, as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "runs_beside_the_host", lambda device: request.param)
        yield request.param


@pytest.fixture
def patient_owner(monkeypatch):
    """Processes start where their modules are found, and a busy one is waited for: no old figures stand for its own."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(process, "ANSWER_SECONDS", PATIENCE)
