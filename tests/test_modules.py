"""Private copies of models."""

import collections
import functools
import gc
import pickle
import random
import threading
import types
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.testing import assert_close

import convzoo
from convzoo._modules import private_copy
from convzoo._wrappers import unwrap


class Counts:
    def __init__(self):
        self.seen = 0


class Slotted:
    __slots__ = ("kept",)

    def __init__(self):
        self.kept = []


class Record(dict):
    def __setitem__(self, key, value):
        super().__setitem__(key, value + 1)


# what a forward may change: how it starts, how it is changed, and what is to be seen of it
STATE = {
    "list": (lambda: [1], lambda v: v.append(2), list),
    "nested list": (lambda: [[1]], lambda v: v[0].append(2), str),
    "list in a tuple": (lambda: ([1],), lambda v: v[0].append(2), str),
    "dict": (lambda: {"a": 1}, lambda v: v.update(a=2), dict),
    "dict of lists": (lambda: {"a": [1]}, lambda v: v["a"].append(2), str),
    "defaultdict": (lambda: collections.defaultdict(list), lambda v: v["a"].append(1), dict),
    "Counter": (collections.Counter, lambda v: v.update("ab"), dict),
    "subclass of dict": (lambda: Record(a=1), lambda v: dict.update(v, a=7), dict),
    "deque": (lambda: collections.deque([1], maxlen=2), lambda v: v.extend([2, 3]), list),
    "set": (lambda: {1}, lambda v: v.add(2), set),
    "bytearray": (lambda: bytearray(b"a"), lambda v: v.extend(b"b"), bytes),
    "array": (lambda: torch.zeros(3).numpy(), lambda v: v.fill(1), list),
    "object": (Counts, lambda v: vars(v).update(seen=1), vars),
    "object with slots": (Slotted, lambda v: v.kept.append(1), lambda v: list(v.kept)),
    "random generator": (lambda: random.Random(0), lambda v: v.random(), lambda v: v.getstate()),
    "torch generator": (torch.Generator, lambda v: torch.rand(1, generator=v), lambda v: v.get_state().tolist()),
    "tensor": (lambda: torch.zeros(3), lambda v: v.add_(1), torch.Tensor.tolist),
    "tensor in a dict": (lambda: {"a": torch.zeros(3)}, lambda v: v["a"].add_(1), str),
    "module in a list": (lambda: [nn.BatchNorm1d(2)], lambda v: v[0].running_mean.add_(1),
                         lambda v: v[0].running_mean.tolist()),
}  # fmt: skip


class Stateful(nn.Module):
    def __init__(self, value, change):
        super().__init__()
        self.value, self.change = value, change

    def forward(self, x):
        self.change(self.value)
        return x


@pytest.mark.parametrize("case", STATE)
@pytest.mark.parametrize("place", ["attribute", "closure", "hook"])
def test_what_runs_changes_the_copy_alone(case, place):
    make, change, look = STATE[case]
    value = make()
    model = Stateful(value, change)
    if place == "closure":
        model = nn.Identity()
        model.forward = lambda x: (change(value), x)[1]
    elif place == "hook":
        model = nn.Identity()
        model.register_forward_hook(lambda *_: (change(value), None)[1])
    before = look(value)
    private = private_copy(model)
    assert private(1) == 1
    assert look(value) == before
    if place == "attribute":
        assert look(private.value) != before
        assert type(private.value) is type(value)


def test_the_tree_is_a_tree_of_its_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    model.add_module("again", nn.Sequential(nn.Conv2d(4, 3, 3), model[0]))
    model[1].register_buffer("late", torch.zeros(1))
    private = private_copy(model)
    assert [name for name, _ in private.named_modules()] == [name for name, _ in model.named_modules()]
    assert private.again[1] is private[0] is not model[0]
    assert model.training
    assert not any(module.training for module in private.modules())
    assert not any(parameter.requires_grad for parameter in private.parameters())
    for (name, theirs), ours in zip(model.state_dict().items(), private.state_dict().values(), strict=True):
        assert_close(ours, theirs)
        assert (ours.data_ptr() == theirs.data_ptr()) == (name in dict(model.named_parameters(remove_duplicate=False)))
    private.train()(torch.rand(2, 3, 8, 8))
    private[0].register_forward_hook(print)
    private[0].register_state_dict_pre_hook(print)
    private.new = nn.Linear(2, 2)
    assert model[1].num_batches_tracked == 0
    assert not model[0]._forward_hooks
    assert not model[0]._state_dict_pre_hooks
    assert not hasattr(model, "new")


def test_tied_parameters_stay_tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    private = private_copy(model, device="meta")
    assert private[0].weight is private[1].weight
    assert private[0].weight.is_meta
    assert isinstance(private[0].weight, nn.Parameter)


def test_methods_partials_and_closures_refer_to_the_copy():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.method, self.partial = self.where, functools.partial(self.where, 1)
            self.forward = lambda: (self, again)

            def again():
                return self, again

        def where(self, *_):
            return self

    model = Net()
    private = private_copy(model)
    assert private.method() is private.partial() is private
    found, again = private.forward()
    assert found is private
    assert again() == (private, again)
    assert model.forward()[0] is model.method() is model


@pytest.mark.parametrize("hooks", [True, False])
def test_hooks_by_choice(hooks):
    model = nn.Sequential(nn.Linear(2, 2))
    seen = []
    model[0].register_forward_hook(lambda module, args, output: output + 1)
    model[0].register_forward_pre_hook(lambda module, args: seen.append(module))
    model[0].register_full_backward_hook(lambda *_: seen.append("backward"))
    private, x = private_copy(model, hooks=hooks), torch.rand(1, 2)
    assert_close(private(x), model[0].forward(x) + hooks)
    assert not seen
    assert len(model[0]._forward_hooks) == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_same_outputs_of_changed_layers():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 8, 8)
    for change in (
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        torch.compile,
        nn.DataParallel,
    ):
        model = nn.Sequential(change(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)).eval()
        assert_close(private_copy(model)(images), unwrap(model[0]).forward(images), rtol=1e-4, atol=1e-4)


def test_lazy_modules_stay_lazy():
    model = nn.Sequential(nn.LazyConv2d(4, 3))
    private_copy(model)(torch.rand(1, 3, 8, 8))
    assert model[0].has_uninitialized_params()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_parts_are_refused():
    with pytest.raises(TypeError, match="0 is a scripted module"):
        private_copy(nn.Sequential(torch.jit.script(nn.Linear(2, 2))))


def test_what_cannot_be_copied_is_shared():
    import threading

    model = nn.Identity()
    model.lock = threading.Lock()
    assert private_copy(model).lock is model.lock


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.shape)
        return x + 1


def by_method(module):
    usual = module.forward

    def forward(self, x):
        return usual(x) * 2

    return types.MethodType(forward, module)


def by_default(module):
    return lambda x, usual=module.forward: usual(x) * 2


def by_keyword(module):
    def forward(x, *, usual=module):
        return Remembers.forward(usual, x) * 2

    return forward


def by_attribute(module):
    def forward(self, x):
        return forward.usual(x) * 2

    forward.usual = module.forward
    return types.MethodType(forward, module)


def by_partial(module):
    return functools.partial(lambda usual, x: usual(x) * 2, module.forward)


def by_compiler(module):
    usual = module.forward
    return torch.compile(lambda x: usual(x) * 2, backend="eager")


@pytest.mark.parametrize("patch", [by_method, by_default, by_keyword, by_attribute, by_partial, by_compiler])
def test_a_patched_forward_runs_the_copy(patch):
    model = nn.Sequential(Remembers())
    model[0].forward = patch(model[0])
    private = private_copy(model)
    assert private(torch.ones(2)).tolist() == [4, 4]
    assert (len(model[0].seen), len(private[0].seen)) == (0, 1)
    assert model(torch.ones(2)).tolist() == [4, 4]
    assert (len(model[0].seen), len(private[0].seen)) == (1, 1)


class Child(nn.Module):
    """Refers to its parent, and to the layer beside it, as modules do that must not own them."""

    def __init__(self, parent, refer):
        super().__init__()
        self.parent, self.beside = [refer(parent)], [refer(parent.linear)]
        self.method, self.dead = weakref.WeakMethod(parent.count), [refer(Counts())]

    def forward(self, x):
        parent, beside = self.parent[0], self.beside[0]
        self.method()()
        if isinstance(parent, weakref.ref):
            parent, beside = parent(), beside()
        return beside(x) * parent.gain


class Parent(nn.Module):
    def __init__(self, refer):
        super().__init__()
        self.register_buffer("gain", torch.ones(1))
        self.linear = nn.Linear(2, 2)
        self.child = Child(self, refer)

    def count(self):
        self.gain += 1

    def forward(self, x):
        return self.child(x)


@pytest.mark.parametrize("refer", [weakref.ref, weakref.proxy, lambda module: module])
def test_weak_references(refer):
    x = torch.rand(3, 2)
    model = Parent(refer).eval()
    private = private_copy(model)
    made = private(x)
    assert (private.gain, model.gain) == (2, 1)
    assert convzoo.profile(model, (2,)).macs == 4
    fast = convzoo.optimize_for_inference(model)
    assert model.gain == 1
    assert_close(made, model(x))
    del model
    gc.collect()
    assert_close(fast(x), made)
    assert_close(private(x) * 2, made * 3)


USUAL, FOUND, NAMES = [], {}, {}


def test_code_that_knows_modules_by_global_names():
    """As code in a notebook does, where there are no closures."""
    model = Remembers()
    USUAL[:], NAMES.clear(), FOUND.clear()
    USUAL.append(model.forward)
    NAMES[model] = "first"
    model.forward = twice_as_much
    model.register_forward_hook(keep_by_name)
    private = private_copy(model)
    assert private(torch.ones(2)).tolist() == [4, 4]
    assert (len(model.seen), len(private.seen)) == (0, 1)
    assert FOUND.pop("first").tolist() == [4, 4]  # a hook acts on what is not of the model, as in any call
    assert model(torch.ones(2)).tolist() == [4, 4]
    assert FOUND["first"].tolist() == [4, 4]


def twice_as_much(x):
    return USUAL[0](x) * 2


def keep_by_name(module, args, output):
    FOUND[NAMES[module]] = output


class Ends:
    """Takes its hook off when it is thrown away."""

    def __init__(self, module):
        self.found, self.handle = None, module.register_forward_hook(self.hook)

    def hook(self, module, args, output):
        self.found = output

    def __del__(self):
        self.handle.remove()


class Slots:
    __slots__ = ("__inner", "__weakref__")

    def __init__(self, inner):
        self.__inner = inner

    def __call__(self, *args):
        return self.__inner(*args)


class OneSlot:
    __slots__ = "inner"  # noqa: PLC0205

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, *args):
        return self.inner(*args)


def by_unfilled_cell(function):
    def call(*args):
        return function(*args) if args else later

    if not function:
        later = None
    return call


def by_keys(modules):
    return lambda x: Remembers.forward(next(iter(modules)), x)


def by_values(modules):
    return lambda x: Remembers.forward(modules["f"], x)


HOLDERS = {
    "slots": Slots, "a slot": OneSlot, "cell": by_unfilled_cell, "cache": functools.lru_cache,
    "mapping": lambda function: lambda x, by_name=types.MappingProxyType({"f": function}): by_name["f"](x),
    "ordered": lambda function: by_keys(collections.OrderedDict({function.__self__: 1})),
    "weak keys": lambda function: by_keys(weakref.WeakKeyDictionary({function.__self__: 1})),
    "weak set": lambda function: by_keys(weakref.WeakSet([function.__self__])),
    "weak values": lambda function: by_values(weakref.WeakValueDictionary(f=function.__self__)),
}  # fmt: skip


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_holds_a_method(holder):
    model = Remembers()
    model.forward = HOLDERS[holder](model.forward)
    private = private_copy(model)
    assert private(torch.ones(2)).tolist() == [2, 2]
    assert (len(model.seen), len(private.seen)) == (0, 1)
    model(torch.ones(2))
    assert (len(model.seen), len(private.seen)) == (1, 1)


def test_objects_that_act_at_their_end():
    model = nn.Sequential(nn.Linear(2, 2))
    ends = Ends(model[0])
    model(torch.ones(2))
    found = ends.found
    private_copy(model)(torch.zeros(2))
    gc.collect()
    assert ends.found is found
    assert len(model[0]._forward_hooks) == 1
    del ends, found
    model[0]._forward_hooks.clear()
    gc.collect()


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_that_takes_itself_off(register):
    model, handles = nn.Sequential(nn.Linear(2, 2)), []

    def once(*args):
        handles.pop().remove()

    handles.append(getattr(model[0], register)(once))
    handles_in = model[0]._forward_hooks if register == "register_forward_hook" else model[0]._forward_pre_hooks
    private = private_copy(model)
    private(torch.ones(2))
    private(torch.ones(2))  # it is off there
    assert len(handles_in) == 1
    model(torch.ones(2))
    assert len(handles_in) == 0


class ModuleWithSlots(nn.Module):
    __slots__ = ("scale",)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        object.__setattr__(self, "scale", [3.0])

    def forward(self, x):
        return self.linear(x) * self.scale[0]


def test_modules_with_slots():
    model, x = ModuleWithSlots().eval(), torch.rand(1, 2)
    private = private_copy(model)
    assert_close(private(x), model(x))
    private.scale.append(1.0)
    assert model.scale == [3.0]
    assert convzoo.profile(model, (2,)).macs == 4
    assert_close(convzoo.optimize_for_inference(model, example=x)(x), model(x))


def rectify(x):
    return twice(x.relu())


def twice(x):
    return x * 2


FACTORS = {rectify: 3.0}
MISSING = object()


class LooksUp(nn.Module):
    """Asks what its own attributes are."""

    def __init__(self):
        super().__init__()
        self.conv, self.activation, self.scale = nn.Conv2d(3, 4, 1), rectify, MISSING
        self.largest = torch.max(torch.ones(4, 2), 1)

    def forward(self, x):
        x = self.activation(self.conv(x)).mean((2, 3)) * FACTORS.get(self.activation, 1.0)
        return x + self.largest.values if self.scale is MISSING else x * self.scale


@torch.no_grad()
def test_functions_and_sentinels_stay_what_they_are():
    model, x = LooksUp().eval(), torch.rand(2, 3, 8, 8)
    assert_close(private_copy(model)(x), model(x))
    fast = convzoo.optimize_for_inference(model, example=x)
    assert_close(fast(x), model(x))
    assert pickle.loads(pickle.dumps(fast)).activation is rectify


def test_hooks_that_share_a_global():
    model, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.rand(1, 2)
    SHARED.clear()
    model[0].register_forward_hook(keep_skip)
    model[1].register_forward_hook(add_skip)
    private = private_copy(model)
    model(torch.rand(1, 2))
    assert_close(private(x), model(x))


SHARED = []


def keep_skip(module, args, output):
    global SKIP  # noqa: PLW0603
    SKIP = output


def add_skip(module, args, output):
    SHARED.append(len(args))
    return output + SKIP


class Registered:
    """Of a class that notes its subclasses."""

    kinds = []

    def __init_subclass__(cls, *, name):
        Registered.kinds.append(name)

    def __del__(self):
        pass


class One(Registered, name="one"):
    pass


def test_no_class_is_made_where_that_is_seen():
    model = nn.Linear(2, 2)
    model.kept = One()
    assert private_copy(model).kept is model.kept
    assert Registered.kinds == ["one"]


def test_lists_that_grow_meanwhile():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(20)))
    kept, counts, stop = [], {}, threading.Event()

    def keep(module, args, output):
        kept.append([len(kept)])
        counts[len(kept)] = [len(kept)]

    for layer in model:
        layer.register_forward_hook(keep)

    def work():
        while not stop.is_set():
            model(torch.ones(1, 2))
            kept.clear()
            counts.clear()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(100):
            private_copy(model)
    finally:
        stop.set()
        worker.join()
