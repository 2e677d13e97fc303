"""Models that are sharded over processes: weights drawn, and what needs them whole says so."""

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


@pytest.mark.filterwarnings("ignore")  # the framework's own, about processors
@pytest.mark.parametrize("wrapper", ["fully_shard", "FullyShardedDataParallel"])
def test_what_needs_the_whole_numbers_refuses_a_sharded_model(one_process, wrapper, tmp_path):
    """Before a run and after it, when the numbers are whole for a while."""
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    model, plain = convzoo.create_model("lenet5").eval(), convzoo.create_model("lenet5").eval()
    x = torch.rand(1, 1, 28, 28)
    if wrapper == "fully_shard":
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        fsdp.fully_shard(model, mesh=mesh)
    else:
        model = fsdp.FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)
    for _ in range(2):
        for call, error, deed in (
            (lambda: convzoo.cam(model, x), TypeError, "explain"),
            (lambda: convzoo.feature_maps(model, x), TypeError, "explain"),
            (lambda: convzoo.save_pretrained(model, tmp_path / "a", tag="a", mean=0, std=1), ValueError, "save"),
            (lambda: convzoo.optimize_for_inference(model), ValueError, "optimise"),
        ):
            with pytest.raises(error, match=f"spread over processes.*cannot {deed} it; gather them.*full_state_dict"):
                call()
        with pytest.raises(ValueError, match=r"spread over processes.*set_model_state_dict"):
            convzoo.load_weights(model, plain.state_dict())
        model(x)
    assert not (tmp_path / "a").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_sharded_model_is_counted_and_its_numbers_gathered(one_process):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    model, whole = convzoo.create_model("lenet5").eval(), convzoo.create_model("lenet5").eval()
    fsdp.fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,)))
    sharded, plain = convzoo.profile(model, (1, 28, 28)), convzoo.profile(whole, (1, 28, 28))
    assert (sharded.params, sharded.param_bytes, sharded.macs) == (plain.params, plain.param_bytes, plain.macs)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    convzoo.load_weights(whole, get_model_state_dict(model, options=options))
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(whole(x), model(x))
