"""The errors a user can cause.

Every message says what is wrong, where, and what to do, in one line. Entry points print it without a traceback
and exit with status 2; anything else that escapes is a bug of ours and keeps its traceback.
"""


class SoundstackError(Exception):
    """Base of all errors that the user, not the code, can mend."""


class ConfigError(SoundstackError):
    """A parameter is unknown, of the wrong type, out of range, or contradicts another."""


class DataError(SoundstackError):
    """A data set is missing, malformed, or its splits leak."""


class AudioError(SoundstackError):
    """A sound file or a sent clip cannot be used: unreadable, empty, too large, not finite."""


class WeightsError(SoundstackError):
    """Pre-trained weights are missing, cannot be fetched, or are not the published ones."""


class DownloadError(SoundstackError):
    """A file could not be fetched, or is not what was published."""


class MemberError(SoundstackError):
    """Models cannot be fused: none found, or data fingerprint, folds or labels differ."""


class StoreError(SoundstackError):
    """The tracking store, the registry or the cache cannot be used as it is."""


class WorkerError(SoundstackError):
    """A process that did a part of the work was ended from outside."""


class SoakError(SoundstackError):
    """The soak bench cannot work here, or something it checks does not hold."""
