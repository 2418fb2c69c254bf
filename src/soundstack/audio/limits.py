"""How much a served model takes: hard caps on a clip and on a request, kept in the model's own folder.

They are chosen (``served_limits``) and written when the model is logged. A request may lower them, by parameters of the
same names, never raise them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soundstack.utils.errors import AudioError, ConfigError

FILE = "limits.json"
_MEGABYTE = 1 << 20
_OF_CLIP_AND_REQUEST = (("max_bytes", "max_request_bytes"), ("max_seconds", "max_request_seconds"))


class RequestLimits(BaseModel):
    """Caps on a clip (the first six) and on a request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    max_bytes: int = Field(32 * _MEGABYTE, gt=0, description="bytes of an encoded clip")
    max_seconds: float = Field(300.0, gt=0, description="length of a clip in seconds")
    max_channels: int = Field(8, gt=0, description="channels of a clip")
    max_samples: int = Field(64_000_000, gt=0, description="decoded samples of a clip, all channels together")
    min_rate: int = Field(1_000, gt=0, description="lowest sampling rate in Hz")
    max_rate: int = Field(192_000, gt=0, description="highest sampling rate in Hz")
    max_clips: int = Field(256, gt=0, description="clips of a request")
    max_request_bytes: int = Field(64 * _MEGABYTE, gt=0, description="bytes of all encoded clips of a request")
    max_request_seconds: float = Field(1_200.0, gt=0, description="seconds of sound of a request")

    @classmethod
    def parse(cls, text: str) -> RequestLimits:
        """Read ``name=value`` pairs, separated by commas, over the defaults; ``default`` is these alone.

        A limit of the request that is not named follows the limit of a clip, where that is raised above it.

        Raises:
            ValueError: A name is unknown or named twice, or a value is not possible.
        """
        if text.strip() == "default":
            return cls()
        values: dict[str, Any] = {}
        for pair in filter(None, map(str.strip, text.split(","))):
            name, sign, value = (part.strip() for part in pair.partition("="))
            if not sign or name not in cls.model_fields:
                raise ValueError(f"{pair!r} is not NAME=VALUE; names: {', '.join(cls.model_fields)}")
            if name in values:
                raise ValueError(f"{name} is named twice")
            try:
                values[name] = float(value) if name.endswith("seconds") else int(value.replace("_", ""))
            except ValueError:
                kind = "number" if name.endswith("seconds") else "whole number"
                raise ValueError(f"{name}: {value!r} is not a {kind}") from None
        for of_clip, of_request in _OF_CLIP_AND_REQUEST:
            default = cls.model_fields[of_request].default
            values.setdefault(of_request, max(default, values.get(of_clip, 0)))
        try:
            limits = cls(**values)
        except ValidationError as error:
            raise ValueError(explained(error)) from None
        for low, high in (("min_rate", "max_rate"), *_OF_CLIP_AND_REQUEST):
            least, most = getattr(limits, low), getattr(limits, high)
            if least > most:
                raise ValueError(f"{low} ({_plain(least)}) is above {high} ({_plain(most)})")
        return limits

    def lowered(self, asked: Mapping[str, Any]) -> RequestLimits:
        """Tighten some of the limits; a ConfigError if a value is of the wrong type, not positive or above the cap."""
        try:
            # Not model_copy(): it does not validate.
            tighter = RequestLimits(**{**self.model_dump(), **asked})
        except ValidationError as error:
            raise ConfigError(explained(error)) from None
        for name in asked:
            cap, value = getattr(self, name), getattr(tighter, name)
            over = "over" if name.startswith("max") else "under"
            if (value > cap) if over == "over" else (value < cap):
                raise ConfigError(f"{name}: {_plain(value)} is {over} this model's limit of {_plain(cap)}")
        return tighter

    def check_bytes(self, size: int) -> None:
        """Raise an AudioError for an encoded clip of too many bytes."""
        if size > self.max_bytes:
            raise AudioError(f"has {size:,} bytes; at most {self.max_bytes:,} are taken")

    def check_form(self, rate: int, channels: int) -> None:
        """Raise an AudioError for a rate in Hz or a number of channels that is out of bounds."""
        if channels > self.max_channels:
            raise AudioError(f"has {channels} channels; at most {self.max_channels} are taken")
        if not self.min_rate <= rate <= self.max_rate:
            raise AudioError(f"has a rate of {rate:,} Hz; {self.min_rate:,} to {self.max_rate:,} Hz are taken")

    def check_length(self, frames: int, rate: int, channels: int) -> None:
        """Raise an AudioError for a clip that is longer than :meth:`max_frames`."""
        if frames > self.max_seconds * rate:
            raise AudioError(f"is {frames / rate:,.1f} s long; at most {self.max_seconds:g} s are taken")
        if frames * channels > self.max_samples:
            raise AudioError(f"has {frames * channels:,} samples; at most {self.max_samples:,} are taken")

    def max_frames(self, rate: int, channels: int) -> int:
        """Frames of the longest clip that is taken, at a rate in Hz and so many channels."""
        return min(int(self.max_seconds * rate), self.max_samples // channels)

    def save(self, folder: Path) -> None:
        """Write the limits beside a saved recogniser."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> RequestLimits:
        """Read what :meth:`save` wrote; a model of an earlier version, which has none, gets the defaults."""
        path = folder / FILE
        return cls.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else cls()


_MOST = 1 << 62
#: For sound of one's own: everything is taken that fits into memory.
UNLIMITED = RequestLimits(
    max_bytes=_MOST, max_seconds=_MOST, max_channels=_MOST, max_samples=_MOST, min_rate=1, max_rate=_MOST
)


def explained(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{first['loc'][0]}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _plain(value: float) -> str:
    return f"{value:,}".removesuffix(".0")
