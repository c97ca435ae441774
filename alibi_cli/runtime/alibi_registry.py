"""Which function rewrites which module class, without torch until a function is registered.

A policy says how one module class gives up its positions, or where its attention takes the bias. It is all that a model family
needs: surgery in memory, conversion on disk and loading a converted checkpoint run the same registered policies.
"""

import difflib
import inspect
import sys
import typing
from collections.abc import Callable
from typing import Any, TypeVar

Policy = TypeVar("Policy", bound=Callable[..., Any])

DEFAULT_POLICY = "replace"  # where a config names none


class PolicyRegistry(dict[Any, Any]):
    """Maps module classes to functions (module: torch.nn.Module, module_index: int, max_sequence_length: int).

    A policy returns a replacement module, the module itself if it changed it in place, or None if it left it alone. A class may be
    given as its dotted path, so that a family's modelling code is imported only when a model of that family is.

    A registry holds the functions of one named policy, and leads to those of the others: `registry.named("add").register(…)`.
    """

    def __init__(self, policies: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.registered_by: dict[Any, str] = {}  # name of the Python module that registered a key
        self.policies = {DEFAULT_POLICY: self} if policies is None else policies

    def named(self, policy: str) -> "PolicyRegistry":
        """The registry of a named policy; a new one if there is none of that name."""
        if policy not in self.policies:
            self.policies[policy] = PolicyRegistry(self.policies)
        return self.policies[policy]

    def register(self, *module_classes: Any) -> Callable[[Policy], Policy]:
        """Decorator: registers one function for one or more module classes. All of them, or none if any is refused.

        Raises:
            ValueError: no class given, a class that has a policy already, or a function that does not take three arguments.
            TypeError: not a subclass of torch.nn.Module, or an argument annotated with another type than the above.
            NameError: the third argument is not named max_sequence_length.
        """
        if not module_classes:
            raise ValueError("Registry decoration without any module class inputs has no effect.")

        from torch.nn import Module

        def decorator(function: Policy) -> Policy:
            _check_signature(function, Module)
            seen = set()
            for cls in module_classes:
                if not isinstance(cls, str) and not (isinstance(cls, type) and issubclass(cls, Module)):
                    raise TypeError(f"{cls!r} is not a subclass of torch.nn.Module.")
                if (known := self._key(cls)) is not None or cls in seen:
                    first = self[cls] if known is not None else function
                    raise ValueError(
                        f"An ALiBi policy has already been registered for module {_path(cls).rpartition('.')[2]}: "
                        f"{origin(first)}; refused: {origin(function)}."
                    )
                seen.add(cls)
            for cls in module_classes:
                dict.__setitem__(self, cls, function)
                self.registered_by[cls] = _caller()
            return function

        return decorator

    def loaded(self) -> dict[Any, Any]:
        """{module class: policy} for every registered class whose module has been imported; the others cannot occur in a model."""
        return {cls: self[key] for key in self if (cls := _resolve(key)) is not None}

    def sources(self, cls: Any) -> set[str]:
        """The Python modules that a registered class owes its policy to: the one that defines it, and the one that registered it."""
        key = self._key(cls)
        return {inspect.unwrap(dict.__getitem__(self, key)).__module__, self.registered_by[key]}

    def _key(self, cls: Any) -> Any:
        path = _path(cls)
        for key in (cls, path) if not isinstance(cls, str) else (cls,):
            if dict.__contains__(self, key):
                return key
        return next((key for key in self if isinstance(cls, str) and _path(key) == path), None)

    def __contains__(self, cls: Any) -> bool:
        return isinstance(cls, (type, str)) and self._key(cls) is not None

    def __getitem__(self, cls: Any) -> Any:
        if cls not in self:
            names = {_path(key).rpartition(".")[2] for key in self}
            wanted = _path(cls).rpartition(".")[2]
            close = difflib.get_close_matches(wanted, names, n=1)
            raise KeyError(f"No ALiBi policy for {wanted}." + (f" Did you mean {close[0]}?" if close else ""))
        return dict.__getitem__(self, self._key(cls))

    def __delitem__(self, cls: Any) -> None:
        key = self._key(cls) or cls
        dict.__delitem__(self, key)
        self.registered_by.pop(key, None)


def origin(function: Any) -> str:
    """file:line of a policy, for messages and for the table of policies."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _resolve(key: Any) -> Any:
    """The class of a key, which may be its dotted path; None if its module has not been imported."""
    if not isinstance(key, str):
        return key
    module, _, name = key.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _caller() -> str:
    """The module that is being executed, past the functions of this file and of the built-in policies."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
        if frame.f_globals.get("__name__", "").rpartition(".")[2] not in ("alibi_registry", "alibi_policies"):
            break
    return frame.f_globals.get("__name__", "__main__")


def _path(cls: Any) -> str:
    return (
        cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else repr(cls)
    )


def _check_signature(function: Any, module_class: type) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 3:
        raise ValueError(f"Each ALiBi policy must accept 3 arguments; {function.__name__} accepts {len(parameters)}.")
    hints = typing.get_type_hints(
        function
    )  # resolves annotations that `from __future__ import annotations` made strings
    for nth, parameter, wanted in zip(("first", "second", "third"), parameters, (module_class, int, int), strict=True):
        if hints.get(parameter.name) is not wanted:
            expected = "int" if wanted is int else "torch.nn.Module"
            raise TypeError(f'The {nth} argument of {function.__name__} must be of type "{expected}".')
    if parameters[2].name != "max_sequence_length":
        raise NameError(f'The third argument of {function.__name__} must be named "max_sequence_length".')
