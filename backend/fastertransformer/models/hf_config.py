# SPDX-License-Identifier: BSD-3-Clause
"""Typed reads of a Hugging Face config.json: a missing or wrong key is named in the error."""

import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from ..errors import ModelLoadError

REQUIRED = object()
"""As a default: the key must be there."""
_AS_THEY_ARE: Mapping[str, str] = MappingProxyType({})
_LARGEST = 2**31 - 1
"""Of sizes: kernels count with 32 bits."""


class HFConfig:
    """A config.json as published: `rope_parameters` of transformers 5 and the older keys are both read.

    Args:
        names: what errors call keys that have another name in the file.
    """

    def __init__(
        self, values: Mapping[str, Any], source: str, names: Mapping[str, str] = _AS_THEY_ARE
    ) -> None:
        self._values = values
        self._names = names
        self.source = source
        """What errors call it."""

    @property
    def model_type(self) -> str:
        return self.text("model_type")

    def raw(self, key: str) -> Any:
        """Whatever the config has, None where it has nothing."""
        return self._values.get(key)

    def integer(self, key: str, default: Any = REQUIRED) -> int:
        """A size: at least 1 where the config has it."""
        value = self._read(key, (int,), default)
        if value is not default and not 1 <= value <= _LARGEST:
            bound = "" if value < 1 else f" up to {_LARGEST}"
            raise ModelLoadError(f"{self._place(key)} is {value}; expected a positive integer{bound}")
        return int(value)

    def number(self, key: str, default: Any = REQUIRED) -> float:
        """A finite one."""
        return self._finite(key, self._read(key, (int, float), default))

    def flag(self, key: str, default: Any = REQUIRED) -> bool:
        return bool(self._read(key, (bool,), default))

    def text(self, key: str, default: Any = REQUIRED) -> str:
        return str(self._read(key, (str,), default))

    def choice(self, key: str, choices: Mapping[str, str], default: str) -> str:
        """What `choices` makes of a name."""
        name = self.text(key, default)
        if name not in choices:
            raise ModelLoadError(f"{self._place(key)} is {name!r}; supported are {', '.join(choices)}")
        return choices[name]

    def integers(self, key: str) -> list[int]:
        """A list of integers; empty when the key is absent."""
        return list(map(int, self._read(key, (list,), [])))

    def texts(self, key: str) -> list[str]:
        """A list of strings; empty when the key is absent."""
        return list(self._read(key, (list,), []))

    def numbers(self, key: str) -> tuple[float, ...]:
        return tuple(self._finite(key, value) for value in self._read(key, (list,), REQUIRED))

    def token_ids(self, key: str) -> tuple[int, ...]:
        """One id or a list of them; none when the key is absent."""
        value = self._read(key, (int, list), [])
        ids = value if isinstance(value, list) else [value]
        if not all(type(token) is int for token in ids):
            raise ModelLoadError(f"{self._place(key)} is {value!r}; expected token ids")
        return tuple(ids)

    def only(self, key: str, allowed: Any) -> None:
        """Refuses any other value than `allowed`, which an absent key stands for."""
        value = self._values.get(key)
        if value is not None and value != allowed:
            raise ModelLoadError(f"{self._place(key)} is {value!r}; only {allowed!r} is supported")

    def renamed(self, names: Mapping[str, str]) -> "HFConfig":
        """The same values, those of keys in `names` also under the names that these stand for."""
        present = {name: self._values[key] for key, name in names.items() if self.has(key)}
        return HFConfig({**self._values, **present}, self.source, self._names)

    def section(self, key: str) -> "HFConfig":
        """A nested object; empty when the key is absent."""
        return HFConfig(self._read(key, (dict,), {}), f"{self.source} ({key})")

    def completed(self, **defaults: Any) -> "HFConfig":
        """The same values, and `defaults` where there are none."""
        given = {name: value for name, value in self._values.items() if value is not None}
        return HFConfig(defaults | given, self.source, self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None

    def _place(self, key: str) -> str:
        return f"{self.source}: {self._names.get(key, key)}"

    def _finite(self, key: str, value: Any) -> float:
        if not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:  # as of nan
            raise ModelLoadError(f"{self._place(key)} is {value!r}; expected a finite number")
        return float(value)

    def _read(self, key: str, kinds: tuple[type, ...], default: Any) -> Any:
        value = self._values.get(key)
        if value is None:
            if default is REQUIRED:
                raise ModelLoadError(f"{self.source} has no {self._names.get(key, key)}")
            return default
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ModelLoadError(f"{self._place(key)} is {value!r}; expected {expected}")
        return value
