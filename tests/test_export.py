"""One net of each family on the ways out of PyTorch that need no other package; tools/export_table.py tries all."""

import export_table
import pytest

import convzoo
from convzoo.registry import find_entry

SHORT = {"depths": (1, 1, 1, 1)}
# with few layers, for the tracers take their time for each; of other families the first net as it is
QUICK = {
    "ablation": ("cnn_all_tricks", {}),
    "googlenet": ("googlenet_bn", {}),
    "mnist": ("fcn_gap", {}),
    "resnet": ("resnet18", SHORT),
    "resnext": ("resnext50_32x4d", SHORT),
    "squeezenet": ("squeezenet1_1", {}),
    "t2t_vit": ("t2t_vit_7", {"depth": 1}),
    "vgg": ("vgg11_bn", {"head": "gap"}),
    "wide_resnet": ("wide_resnet50_2", SHORT),
}
FIRST = {find_entry(name).about["family"]: (name, {}) for name in reversed(convzoo.list_models())}


@pytest.mark.parametrize("family", FIRST)
def test_export_trace_and_symbolic_tracing(family):
    name, options = QUICK.get(family, FIRST[family])
    model, x = export_table.small(name, **options)
    for way in ("export", "trace", "fx"):
        assert export_table.attempt(export_table.WAYS[way][0], model, x) == "", way
