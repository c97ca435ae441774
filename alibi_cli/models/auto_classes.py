"""Converted checkpoints by transformers' Auto classes without the code that they carry: `import alibi_cli` is enough.

transformers asks its tables for a model type (`alibi_llama`) when it meets a config of it. There are fifty-one families, each with a module
to import, so nothing is made before it is asked for; and transformers itself is not imported for it, but waited for.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from alibi_cli.names import CONVERTED

TABLES = "transformers.models.auto.configuration_auto"


class ConvertedTypes(dict[str, Any]):
    """{model type: config class} of what was registered with transformers, and of every converted type that it is asked for."""

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or _base_of(key) is not None

    def __getitem__(self, key: str) -> Any:
        if not super().__contains__(key):
            base = _base_of(key)
            if base is None:
                raise KeyError(key)
            self[key] = _registered(base)
        return super().__getitem__(key)


def _base_of(key: object) -> str | None:
    if not isinstance(key, str) or not key.startswith(CONVERTED):
        return None
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from alibi_cli.models.families import family_of, family_policies, policy_names

    base = key.removeprefix(CONVERTED)
    known = base in CONFIG_MAPPING_NAMES and any(family_of(base) in family_policies(name) for name in policy_names())
    return base if known else None


def _registered(base: str) -> Any:
    """The config class of a converted type, whose models and tokenizer the Auto classes know from now on."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    from alibi_cli.runtime.modeling_alibi import auto_map_for, config_class_for, model_class_for, stock_class

    stock = CONFIG_MAPPING[base]
    config = config_class_for(stock)
    for auto, target in auto_map_for(base).items():
        if auto != "AutoConfig":
            model = stock_class(target.rpartition(".Alibi")[2])
            getattr(transformers, auto).register(config, model_class_for(model), exist_ok=True)
    if (tokenizer := TOKENIZER_MAPPING.get(stock, None)) is not None:
        TOKENIZER_MAPPING.register(config, tokenizer, exist_ok=True)
    return config


def register() -> None:
    """Now, if transformers is there; otherwise as soon as it is imported."""
    if TABLES in sys.modules:
        _install(sys.modules[TABLES])
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def _install(tables: ModuleType) -> None:
    mapping = tables.CONFIG_MAPPING
    if not isinstance(mapping._extra_content, ConvertedTypes):
        mapping._extra_content = ConvertedTypes(mapping._extra_content)


class _Waiting:  # a MetaPathFinder; importlib.abc takes long to import
    """Sees that the tables are imported, lets Python do it, and installs ours."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != TABLES:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            then: Any = _Then(spec.loader)
            spec.loader = then
        return spec


class _Then:
    """A loader, and what follows."""

    def __init__(self, loader: Any):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self.loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _install(module)
