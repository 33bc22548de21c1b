"""A PyTorch that has other names within its fully_shard is refused with the range to install."""

import pytest
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam

from tfkit.errors import MachineError
from tfkit.parallel.fsdp_internals import require_names


@pytest.mark.parametrize(("owner", "name"), [(FSDPParam, "free_unsharded_param"), (FSDPModule, "reset_iter_state")])
def test_a_name_that_is_gone_is_said_before_anything_is_shared(owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_names()
    monkeypatch.delattr(owner, name)
    with pytest.raises(MachineError, match=rf"\({owner.__name__}\.{name}\): install 'torch>=2\.13,<2\.14', or give 1"):
        require_names()
