"""Small projects that import the library beside other people's; in an environment of their own: make consumers."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import convzoo

ROOT = Path(__file__).resolve().parents[2]
PAGES = "".join((ROOT / "docs" / "howto" / page).read_text() for page in ("trainers.md", "own_images.md"))
RECIPES: dict[str, str] = {}  # the blocks of one library are one script
for library, block in re.findall(r'```python title="(\w+)"\n(.*?)```', PAGES, re.DOTALL):
    RECIPES[library] = RECIPES.get(library, "") + block
pytestmark = [pytest.mark.consumers, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def data():
    torch.manual_seed(0)
    return [(torch.rand(1, 28, 28), index % 3) for index in range(48)]


@pytest.mark.parametrize("library", RECIPES)
def test_recipes_run_as_the_page_has_them(library, data, tmp_path, monkeypatch):
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    exec(compile(RECIPES[library], library, "exec"), {"data": data})


def test_the_transform_of_the_page_is_ours():
    """What torchvision's v2 makes of a picture, built as the page on own pictures has it, is what ours makes."""
    pytest.importorskip("torchvision")
    from PIL import Image

    scope: dict[str, object] = {}
    exec(RECIPES["torchvision"], scope)
    with Image.open(ROOT / "examples/digits/3.png") as digit:
        picture = digit.convert("RGB").resize((90, 70))
    wanted = scope["net"].transform(picture)
    assert scope["training"](picture).shape == wanted.shape
    torch.testing.assert_close(scope["measuring"](picture), wanted, rtol=0, atol=0.05)


def test_a_pipeline_of_albumentations_is_nearly_ours():
    """As the page has it: areas are averaged. Sizes round alike for this picture."""
    pytest.importorskip("albumentations")
    from PIL import Image

    scope: dict[str, object] = {}
    exec(RECIPES["albumentations"], scope)
    with Image.open(ROOT / "examples/digits/3.png") as digit:
        picture = digit.convert("RGB").resize((90, 70))
    wanted = scope["net"].transform(picture)
    torch.testing.assert_close(scope["measured"](picture), wanted, rtol=0, atol=0.25)
    assert (scope["measured"](picture) - wanted).abs().mean() < 0.035


def test_trainer_takes_a_net_as_it_is_and_logs_its_config(data, tmp_path):
    transformers = pytest.importorskip("transformers")

    class Plain(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **more):
            logits = model(inputs["images"])
            loss = F.cross_entropy(logits, inputs["labels"])
            return (loss, {"logits": logits}) if return_outputs else loss

    net = convzoo.create_model("resnet18", num_classes=3, in_chans=1, stem="small", depths=(1, 1, 1, 1))
    settings = transformers.TrainingArguments(
        str(tmp_path), use_cpu=True, report_to=[], max_steps=2, remove_unused_columns=False, label_names=["labels"]
    )
    before = net.fc.weight.clone()
    collate = lambda rows: {"images": torch.stack([r[0] for r in rows]), "labels": torch.tensor([r[1] for r in rows])}  # noqa: E731
    trainer = Plain(net, settings, train_dataset=data, eval_dataset=data, data_collator=collate)
    trainer.train()
    assert not torch.equal(net.fc.weight, before)
    images = torch.stack([row[0] for row in data])
    with torch.no_grad():
        wanted = net.eval()(images)
    torch.testing.assert_close(torch.from_numpy(trainer.predict(data).predictions), wanted, rtol=1e-4, atol=1e-4)
    assert net.config.num_classes == 3
    assert "resnet18" in net.config.to_json_string()
    convzoo.save_pretrained(net, tmp_path / "saved", tag="mine", mean=0.5, std=0.5)
    again = convzoo.create_model("resnet18", pretrained=tmp_path / "saved")
    x = torch.rand(2, 1, 32, 32)
    assert torch.equal(again(x), net.eval()(x))


def test_a_resnet_of_transformers_is_the_same_net():
    transformers = pytest.importorskip("transformers")
    sizes = {"embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048], "depths": [1, 2, 1, 1]}
    theirs = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=5)).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    ours = convzoo.create_model("resnet50", num_classes=5, depths=(1, 2, 1, 1)).eval()
    convzoo.load_weights(ours, theirs.state_dict())
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x).logits, rtol=1e-4, atol=1e-5)


def test_adapters_of_peft(data):
    peft = pytest.importorskip("peft")
    net = convzoo.create_model("resnet18", num_classes=3, depths=(1, 1, 1, 1)).eval()
    adapted = peft.get_peft_model(net, peft.LoraConfig(target_modules=["conv1", "fc"]))
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.normal_(0, 0.1)
        wanted = adapted(x)
        torch.testing.assert_close(convzoo.optimize_for_inference(adapted, example=x)(x), wanted, rtol=1e-3, atol=1e-3)
    with pytest.raises((ValueError, TypeError)):
        convzoo.save_pretrained(adapted, "never", tag="mine", mean=0.5, std=0.5)
    assert not Path("never").exists()


def test_a_segmentation_net_on_our_backbone():
    smp = pytest.importorskip("segmentation_models_pytorch")

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = convzoo.create_model("resnet18", features_only=True)
            self.out_channels = [3, *self.body.feature_info.channels()]
            self.output_stride = 32

        def forward(self, x):
            return [x, *self.body(x)]

    encoder = Encoder()
    decoder = smp.decoders.unet.decoder.UnetDecoder(
        encoder_channels=encoder.out_channels, decoder_channels=(64, 32, 32, 16, 16), n_blocks=5
    )
    features = encoder(torch.rand(2, 3, 64, 64))
    assert decoder(features).shape == (2, 16, 64, 64)


def test_torchvision_takes_our_nets_apart():
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    net = convzoo.create_model("resnet18", num_classes=3).eval()
    taps = extraction.create_feature_extractor(net, {"layer1": "low", "layer4": "high"})
    x = torch.rand(1, 3, 64, 64)
    maps = taps(x)
    assert torch.equal(maps["high"], net.forward_features(x))


def test_exported_to_onnx():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    import export_table

    for name in ("lenet5", "fcn_gap"):
        model, x = export_table.small(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert export_table.attempt(export_table.onnx, model, x) == ""


def test_a_table_of_pandas():
    pytest.importorskip("pandas")
    profile = convzoo.profile(convzoo.create_model("lenet5"), (1, 28, 28))
    frame = profile.to_dataframe()
    assert frame["macs"].sum() == profile.macs


@pytest.mark.parametrize("name", ["resnet18", "t2t_vit_7", "vgg11"])
def test_layer_decay_of_timm(name):
    """timm's function for it gives each stage the rate that ours does."""
    from timm import optim

    with torch.device("meta"):
        model = convzoo.create_model(name)
    apart = model.no_weight_decay()  # create_optimizer_v2 asks for it
    theirs = optim.param_groups_layer_decay(model, 0.05, apart, layer_decay=0.5)
    scale = {id(each): (group["lr_scale"], group["weight_decay"]) for group in theirs for each in group["params"]}
    ours = convzoo.parameter_groups(model, 1.0, layer_decay=0.5, weight_decay=0.05)
    assert {id(each): (group["lr"], group["weight_decay"]) for group in ours for each in group["params"]} == scale
