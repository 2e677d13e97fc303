"""The copy of a model that is run to be counted: its modules keep a record, its tensors are the model's own.

No tensor is ever written to, because the recorder puts twins without memory in their place.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .._inert import PATCHES, is_known_code
from .._modules import ModuleCopier, refuse_script
from .._wrappers import BACKWARD_HOOKS, FORWARD_HOOKS, answer_for, unwrap_call, wrappers_of
from ..models import Classifier
from ..models._input import check_images
from .fast_layers import FAST_LAYERS, FastLayer, FastLayerRecord
from .hooks import call_with_hooks, find_hooks
from .recorder import Recorder
from .result import Layer
from .tally import UNRECORDED, ModuleRecord

PLAIN = (nn.Parameter, Tensor)
STRIDED = torch.strided


class RecordedModel(ModuleCopier):
    """``root`` runs, ``records`` tell what its modules did.

    Attributes:
        hooked: the paths of modules with forward hooks, and these hooks (:func:`find_hooks`). They are left out, or
            called on the copy with ``hooks=True``; what they compute is then their parent's.

    Raises:
        TypeError: a module is scripted.
        ValueError: a module is lazy and has not seen its first batch.
    """

    def __init__(self, model: nn.Module, hooks: bool = False) -> None:
        super().__init__(hooks=hooks)
        self.recorder = Recorder()
        self.hooked: list[tuple[str, list[Any]]] = []
        self._asked = hooks  # whether code that is not known may ask the layers what they are
        self.records: list[ModuleRecord] = []
        self.parameters: dict[int, Tensor] = {}
        self.buffers: dict[int, Tensor] = {}
        self.buffer_elements = 0
        self._states: list[dict[str, Any]] = []  # the attributes of every copy
        none = BACKWARD_HOOKS if hooks else (*FORWARD_HOOKS, *BACKWARD_HOOKS)
        self._no_hooks: dict[str, Any] = {name: OrderedDict() for name in none}
        self.root = self.module(model)
        if self.hooked:
            self.recorder.read = {}
        self.recorder.module = self.records[0]
        self.finish()

    def module(self, module: nn.Module, path: str = "", *, registered: bool = True, parent: int = -1) -> Any:
        """The copy of ``module``, or what stands in for it; it goes into the totals if it is ``registered``."""
        outside, stock_call = module, FAST_LAYERS.get(type(module))
        if stock_call is None:
            module = unwrap_call(module, path, hooks=self.hooks)
            if module is not outside:
                self.hooked += [(path, hooks) for each in wrappers_of(outside) if (hooks := find_hooks(each))]
            stock_call = FAST_LAYERS.get(type(module))
        if id(module) in self._copies:
            return self._copies[id(module)]
        hooked = bool(module._forward_hooks or module._forward_pre_hooks)
        if hooked and (hooks := find_hooks(module)):
            self.hooked.append((path, hooks))
        alone = registered and not hooked and not self._asked
        if stock_call is not None and alone and not has_own_code(module) and is_known_code(module):
            try:
                call = stock_call(module)
            except KeyError:  # its weight is not a parameter
                call = None
            if call is not None:
                fast = FastLayerRecord(self.recorder, path, module, call, self.expand, parent)
                self._take_tensors(module, fast, registered)
                stand_in = self._copies[id(module)] = FastLayer(fast)
                self._originals.append(module)
                return stand_in
        refuse_script(module, path)
        record = ModuleRecord(self.recorder, path, type(module).__name__, parent)
        place = len(self.records)
        self._take_tensors(module, record, registered)
        fresh = self.remember(module, self._recorded(module, record))
        if module is not outside:
            answer_for(fresh, outside)
        children, asked = fresh._modules, self._asked
        self._asked = asked or not registered or not is_known_code(module) or has_own_code(module)
        for name, child in children.items():
            if child is not None:
                below = f"{path}.{name}" if path else name
                children[name] = self.module(child, below, registered=registered, parent=place)
        self._asked = asked
        return fresh

    def _take_tensors(self, module: nn.Module, record: ModuleRecord, registered: bool) -> None:
        self.records.append(record)
        if parameters := module._parameters:
            record.own_params = self._take(parameters, self.parameters, record, registered)
        if buffers := module._buffers:
            self.buffer_elements += self._take(buffers, self.buffers, record, registered)

    def _take(
        self, tensors: Mapping[str, Tensor | None], seen: dict[int, Tensor], record: ModuleRecord, registered: bool
    ) -> int:
        """Note the tensors that no module before had; the number of their elements that go into the totals."""
        elements = 0
        for name, tensor in tensors.items():
            if tensor is None or (key := id(tensor)) in seen:
                continue
            if type(tensor) not in PLAIN and is_lazy(tensor):
                raise ValueError(
                    f"{record.path or 'the model'} ({record.type}) is lazy and its {name} has no shape yet; "
                    "profile takes initialised modules; run one batch through the model first"
                )
            if tensor.is_meta:
                self.recorder.guarded.add(key)
            if tensor.layout is not STRIDED:
                self.recorder.sparse = True
            if registered:
                seen[key] = tensor
                elements += tensor.numel()
        return elements

    def tensor(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        if tensor.is_meta:
            self.recorder.guarded.add(id(tensor))
        if tensor.layout is not STRIDED:
            self.recorder.sparse = True
        return tensor

    def _recorded(self, module: nn.Module, record: ModuleRecord) -> nn.Module:
        """The copy of one module. What ``nn.Module.__call__`` runs in place of its own code is the record."""
        fresh: Any = object.__new__(type(module))
        state = fresh.__dict__
        state.update(module.__dict__)
        state.update(self._no_hooks)
        for name in ("_parameters", "_buffers", "_modules", *(FORWARD_HOOKS if self.hooks else ())):
            state[name] = state[name].copy()
        state["training"], state["_compiled_call_impl"] = False, record
        if isinstance(module, Classifier) and type(module).check_input is Classifier.check_input:
            state.setdefault("check_input", functools.partial(check_unrecorded, fresh, module))
        self._states.append(state)
        self._unfinished.append((module, fresh))
        return fresh

    def complete(self, module: nn.Module, fresh: nn.Module) -> None:
        """Give a copy its attributes, and its record the code that it stands in for."""
        super().complete(module, fresh)
        state = fresh.__dict__
        record = state["_compiled_call_impl"]
        record.code = state.get("forward") or types.MethodType(type(module).forward, fresh)
        record.counting = ".parametrizations." not in f".{record.path}."
        state["forward"] = record
        if self.hooks and (fresh._forward_hooks or fresh._forward_pre_hooks):
            state["_compiled_call_impl"] = functools.partial(call_with_hooks, fresh, record)

    def expand(self, record: ModuleRecord, module: nn.Module) -> Any:
        """The copy of a layer that had a stand-in until now."""
        fresh = self._recorded(module, record)
        self.finish()
        return fresh

    def reads_kept_tensors(self) -> bool:
        """Whether the run read a tensor that is neither a parameter, a buffer nor computed from the inputs."""
        read = self.recorder.read or {}
        return any(key not in self.parameters and key not in self.buffers for key in read)

    def layers(self) -> list[Layer]:
        """A row for each module, with what is inside it added up."""
        params, macs = [each.own_params for each in self.records], [each.macs for each in self.records]
        for index in range(len(self.records) - 1, 0, -1):
            parent = self.records[index].parent
            if parent >= 0:
                params[parent] += params[index]
                if not self.records[parent].calls:  # a list of modules is not called itself
                    macs[parent] += macs[index]
        total = self.recorder.macs or 1
        return [
            Layer(
                each.path, each.type, each.input_shape and tuple(each.input_shape),
                each.output_shape and tuple(each.output_shape), held, cost, cost / total, each.calls,
                each.own_params, each.own_macs,
            )
            for each, held, cost in zip(self.records, params, macs, strict=True)
        ]  # fmt: skip

    def __enter__(self) -> RecordedModel:
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of the model: what is left of the copy must not keep its tensors alive."""
        for state in self._states:
            state.clear()
        self.root = None
        for store in (self.parameters, self.buffers, self._copies, self._originals, self.records):
            store.clear()
        self.recorder.read = None
        self.recorder.close()


def has_own_code(module: nn.Module) -> bool:
    """Whether somebody put a method on the instance."""
    return not PATCHES.isdisjoint(module.__dict__)


def check_unrecorded(fresh: Classifier, original: Classifier, x: Tensor) -> None:
    """What ``check_input`` of ``original`` says to its copy; asking a tensor what it is passes no recorder."""
    with UNRECORDED():
        check_images(fresh, x, original=original)
