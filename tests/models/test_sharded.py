"""Weights drawn for a model that is sharded over processes: made on meta, sharded, given memory, drawn."""

import pytest
import torch
import torch.distributed
from torch import nn

import convzoo


@pytest.fixture
def one_process(tmp_path):
    """A group of this process alone, which shards as many do."""
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:DTensor random operators")  # the framework's own, about processors
@pytest.mark.parametrize(("name", "options"), [("t2t_vit_7", {"img_size": 32, "depth": 2}), ("lenet5_1998", {})])
def test_reset_parameters_of_a_sharded_model(one_process, name, options):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    with torch.device("meta"):
        model = convzoo.create_model(name, 5, **options)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    fsdp.fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    model.reset_parameters()
    plain = convzoo.create_model(name, 5, **options)
    for path, parameter in model.named_parameters():
        drawn, expected = parameter.full_tensor().detach(), plain.get_parameter(path).detach()
        assert torch.isfinite(drawn).all(), path
        if expected.numel() > 10_000:
            assert drawn.std().item() == pytest.approx(expected.std().item(), rel=0.1), path
    if name == "t2t_vit_7":
        assert torch.equal(model.pos_embed.full_tensor(), plain.pos_embed)
    assert torch.isfinite(model(torch.randn(2, model.in_chans, *model.img_size))).all()
