"""The caps of a served model: what a user may choose, and that a request only lowers them."""

import pytest

from soundstack.audio.limits import RequestLimits
from soundstack.config.steps import FuseConfig
from soundstack.utils.errors import ConfigError


def test_named_limits_are_set_and_the_others_keep_their_defaults():
    chosen = RequestLimits.parse(" max_seconds = 60, max_clips=16 ,max_bytes=1_000_000,")
    assert chosen == RequestLimits(max_seconds=60.0, max_clips=16, max_bytes=1_000_000)
    assert RequestLimits.parse("default") == RequestLimits()
    assert RequestLimits.parse(FuseConfig(served_limits="min_rate=8000").served_limits) == RequestLimits(min_rate=8000)


def test_a_clip_that_is_taken_fits_into_a_request():
    chosen = RequestLimits.parse("max_seconds=7200,max_bytes=500000000")
    assert (chosen.max_request_seconds, chosen.max_request_bytes) == (7200, 500_000_000)
    kept = RequestLimits.parse("max_seconds=10")
    assert kept.max_request_seconds == RequestLimits().max_request_seconds


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("seconds=3", "'seconds=3' is not NAME=VALUE; names: max_bytes, max_seconds"),
        ("max_clips", "'max_clips' is not NAME=VALUE"),
        ("max_clips=2,max_clips=3", "max_clips is named twice"),
        ("max_clips=two", "max_clips: 'two' is not a whole number"),
        ("max_seconds=long", "max_seconds: 'long' is not a number"),
        ("max_channels=-1", "max_channels: input should be greater than 0"),
        ("max_seconds=inf", "max_seconds: input should be a finite number"),
        ("max_rate=500", "min_rate (1,000) is above max_rate (500)"),
        ("max_request_seconds=10", "max_seconds (300) is above max_request_seconds (10)"),
    ],
)
def test_what_is_wrong_with_a_limit_is_named(text, tells):
    with pytest.raises(ValueError) as caught:
        RequestLimits.parse(text)
    assert tells in str(caught.value)


def test_chosen_limits_are_kept_with_the_model_and_a_request_only_lowers_them(tmp_path):
    RequestLimits.parse("max_seconds=60").save(tmp_path)
    kept = RequestLimits.load(tmp_path)
    assert kept.lowered({"max_seconds": 30.0}).max_seconds == 30
    with pytest.raises(ConfigError, match="max_seconds: 61 is over this model's limit of 60"):
        kept.lowered({"max_seconds": 61.0})
