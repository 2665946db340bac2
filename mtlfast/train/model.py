"""One body, several heads: what all tasks share and what each output has for itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Self

from torch import Tensor, nn

from mtlfast.functional.checks import check_kinds

__all__ = ["MultiTaskModel"]

Head = nn.Module | tuple[str, nn.Module]
# Stands for a dot in the names of parameters, where dots part modules.
DOT = "%2E"


class Heads(nn.ModuleDict):
    """Modules by any name, those of nn.Module's own attributes and with dots among them."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a head, or an attribute, as training, though a head be called so."""
        if isinstance(value, nn.Module):
            self[name] = value
        else:
            object.__setattr__(self, name, value)

    def __getitem__(self, name: str) -> Any:
        return self._modules[name.replace(".", DOT)]

    def __setitem__(self, name: str, module: nn.Module) -> None:
        self._modules[name.replace(".", DOT)] = module

    def __delitem__(self, name: str) -> None:
        del self._modules[name.replace(".", DOT)]

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> Any:
        """Returns the names."""
        return [place.replace(DOT, ".") for place in self._modules]

    def items(self) -> Any:
        """Returns names and modules."""
        return list(zip(self.keys(), self._modules.values(), strict=True))


class MultiTaskModel(nn.Module):
    """A backbone with named heads.

    Args:
        backbone: a module whose output feeds the heads.
        heads: by name, a module on the backbone's output, or ``(layer name, module)`` on the output
            of that submodule of the backbone, spelled as in ``backbone.named_modules()``. Any name
            of a column will do; a dot in it is %2E in the names of the head's parameters.

    Raises:
        TypeError: for what is no module.
        ValueError: without heads, or for a layer that the backbone does not have.

    Example:
        >>> import torch
        >>> heads = {"kind": nn.Linear(4, 3), "size": nn.Linear(4, 1)}
        >>> outputs = MultiTaskModel(nn.Linear(8, 4), heads)(torch.zeros(2, 8))
        >>> {name: tuple(output.shape) for name, output in outputs.items()}
        {'kind': (2, 3), 'size': (2, 1)}
    """

    def __init__(self, backbone: nn.Module, heads: Mapping[str, Head]) -> None:
        """Takes what the class describes."""
        super().__init__()
        check_kinds(
            [
                ("backbone", backbone, nn.Module, "a module"),
                ("heads", heads, Mapping, "a mapping of names to modules"),
            ]
        )
        if not heads:
            raise ValueError("a MultiTaskModel needs at least one head; got none.")
        self.backbone = backbone
        self.heads = Heads()
        self.layers: dict[str, str] = {}
        self._features: dict[str, Tensor] | None = None
        self._kept: set[str] = set()
        self._frozen: set[str] = set()
        for name, head in heads.items():
            self._attach(name, head)

    def _attach(self, name: str, head: Head) -> None:
        layer, module = head if isinstance(head, tuple) and len(head) == 2 else ("", head)
        wanted = "a module or (layer name, module)"
        check_kinds(
            [
                ("a head's name", name, str, "a string"),
                (f"head {name!r}", layer, str, wanted),
                (f"head {name!r}", module, nn.Module, wanted),
            ]
        )
        if not name or DOT in name:
            raise ValueError(f"a head's name must not be empty or hold {DOT!r}; got {name!r}.")
        if layer and layer not in self._kept:
            modules = dict(self.backbone.named_modules())
            if layer not in modules:
                known = sorted(modules)[1:]
                raise ValueError(f"the backbone has no layer {layer!r}; it has {known}.")
            modules[layer].register_forward_hook(partial(self._keep, layer))
            self._kept.add(layer)
        self.heads[name], self.layers[name] = module, layer

    def _keep(self, layer: str, module: nn.Module, args: object, output: Tensor) -> None:
        if self._features is not None:
            self._features[layer] = output

    def forward(self, x: Tensor, heads: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Returns the output of each head, or only of those named in ``heads``."""
        features = self._features = {}
        try:
            features[""] = self.backbone(x)
        finally:
            self._features = None
        wanted = self.heads if heads is None else heads
        return {name: self.heads[name](features[self.layers[name]]) for name in wanted}

    def replace_head(self, name: str, head: Head) -> None:
        """Puts another module in the place of a head; an optimizer must be made after it.

        The new head trains, whether the old one was frozen or not.

        Args:
            name: of the head.
            head: a module, or ``(layer name, module)`` as for the constructor.

        Raises:
            ValueError: for a head or a layer that the model does not have.

        Example:
            >>> import torch
            >>> model = MultiTaskModel(nn.Linear(8, 4), {"kind": nn.Linear(4, 3)})
            >>> model.replace_head("kind", nn.Linear(4, 10))
            >>> model(torch.zeros(2, 8))["kind"].shape
            torch.Size([2, 10])
        """
        if name not in self.heads:
            raise ValueError(f"the model has no head {name!r}; it has {list(self.heads)}.")
        self._attach(name, head)
        place = f"heads.{name.replace('.', DOT)}"
        self._frozen = {other for other in self._frozen if not _within(other, place)}
        self.heads[name].train(self.training)

    def freeze(self, *names: str) -> None:
        """Stops submodules from learning, whatever ``train()`` says of the model.

        Their parameters ask for no gradient, and they stay in evaluation mode: batch normalisation
        keeps its statistics, dropout drops nothing.

        Args:
            names: as in ``named_modules()``: ``"backbone"``, ``"backbone.0"``, ``"heads.kind"``.

        Raises:
            ValueError: for a submodule that the model does not have.

        Example:
            >>> model = MultiTaskModel(nn.Linear(8, 4), {"kind": nn.Linear(4, 3)})
            >>> model.freeze("backbone")
            >>> [name for name, p in model.named_parameters() if p.requires_grad]
            ['heads.kind.weight', 'heads.kind.bias']
        """
        self._let(names, learn=False)

    def unfreeze(self, *names: str) -> None:
        """Lets submodules learn again; of a frozen module a part may do so.

        Args:
            names: as for ``freeze``.

        Raises:
            ValueError: for a submodule that the model does not have.
        """
        self._let(names, learn=True)

    def _let(self, names: Iterable[str], *, learn: bool) -> None:
        modules = self._named()
        for name in self._check(names):
            modules[name].requires_grad_(learn)
            if not learn:
                modules[name].zero_grad()
            below = {other for other in modules if _within(other, name)}
            self._frozen = self._frozen - below if learn else self._frozen | below
            for other in below:
                modules[other].training = learn and self.training

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode of all modules that are not frozen."""
        super().train(mode)
        modules = self._named()
        for name in self._frozen:
            modules[name].training = False
        return self

    def parameter_groups(self, lr: float | Mapping[str, float]) -> list[dict[str, Any]]:
        """Returns groups of parameters for an optimizer; frozen ones are left out.

        Args:
            lr: a learning rate, or one by the name of a submodule. The longest name that a
                parameter lies under decides; ``""`` is the whole model.

        Raises:
            ValueError: for a bad rate, a submodule that the model does not have, or a parameter
                under no name.

        Example:
            >>> model = MultiTaskModel(nn.Linear(8, 4), {"kind": nn.Linear(4, 3)})
            >>> groups = model.parameter_groups({"backbone": 1e-4, "heads": 1e-3})
            >>> [(group["name"], group["lr"], len(group["params"])) for group in groups]
            [('backbone', 0.0001, 2), ('heads', 0.001, 2)]
        """
        rates = lr if isinstance(lr, Mapping) else {"": lr}
        for rate in rates.values():
            if not 0 <= rate < math.inf:
                raise ValueError(f"lr must be finite and not negative; got {rate}.")
        groups: dict[str, dict[str, Any]] = {
            name: {"params": [], "lr": rates[name], "name": name or "model"}
            for name in self._check(rates)
        }
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                above = [place for place in groups if _within(name, place)]
                if not above:
                    raise ValueError(
                        f"lr must name a module above every parameter; none is above {name!r}."
                    )
                groups[max(above, key=len)]["params"].append(parameter)
        return [group for group in groups.values() if group["params"]]

    def _named(self) -> dict[str, nn.Module]:
        """Returns all submodules by name; get_submodule takes a head ``type`` for a method."""
        return dict(self.named_modules(remove_duplicate=False))

    def _check(self, names: Iterable[str]) -> list[str]:
        """Returns names of submodules if there are such."""
        known = self._named()
        for name in names:
            if name not in known:
                above = name
                while above not in known:
                    above = above.rpartition(".")[0]
                there = [n for n in known if n and n.rpartition(".")[0] == above]
                where = f"{above!r}" if above else "the model"
                raise ValueError(f"{where} has no submodule {name!r}; it has {sorted(there)}.")
        return list(names)


def _within(name: str, place: str) -> bool:
    return not place or name == place or name.startswith(f"{place}.")
