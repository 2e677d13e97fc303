"""One net of each family on the ways out of PyTorch that need no other package; tools/export_table.py tries all."""

import export_table
import pytest

import convzoo

SHORT = {"depths": (1, 1, 1, 1)}
# one a family, with few layers: the tracers take their time for each
NETS = {
    "alexnet": {},
    "cnn_all_tricks": {},
    "fcn_gap": {},
    "googlenet_bn": {},
    "inception_v3": {},
    "lenet5": {},
    "resnet18": SHORT,
    "resnext50_32x4d": SHORT,
    "t2t_vit_7": {"depth": 1},
    "vgg11_bn": {"head": "gap"},
    "wide_resnet50_2": SHORT,
}


def test_every_family_is_here():
    assert {convzoo.model_info(name).family for name in NETS} == {
        convzoo.model_info(name).family for name in convzoo.list_models()
    }


@pytest.mark.parametrize("name", NETS)
def test_export_trace_and_symbolic_tracing(name):
    model, x = export_table.small(name, **NETS[name])
    for way in ("export", "trace", "fx"):
        assert export_table.attempt(export_table.WAYS[way][0], model, x) == "", way
