"""The page itself: what stands on it, what happens when it is used, and the server that shows it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soundstack.evaluation.none_rule import NONE
from soundstack.page import corrections, pictures
from soundstack.page.answers import Listener
from soundstack.page.gate import Gate
from soundstack.utils.errors import AudioError, ConfigError, SoundstackError
from soundstack.utils.markdown import escape

if TYPE_CHECKING:
    import gradio as gr

USER = "soundstack"
#: Calls that wait, and sessions that are remembered.
WAITING, _SESSIONS = 16, 64
_SHOWN_CLASSES = 8
#: Seconds between looks for what was uploaded, and after which it is deleted.
DELETED = (300, 1800)
#: Without what Gradio does beside: a public address, monitoring, a history of runs, a server for programs ...
_PLAIN: dict[str, Any] = {
    "share": False,
    "quiet": True,
    "prevent_thread_lock": True,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
}
_CSS = """
.gradio-container {max-width: 1160px !important; margin: 0 auto !important}
#opinions caption {text-align: left; padding-bottom: .4em} #opinions th, #opinions td {padding: .25em .6em}
.gradio-container {--body-text-color-subdued: #52525b; --block-info-text-color: #52525b}
.dark .gradio-container, .dark.gradio-container {--body-text-color-subdued: #d4d4d8; --block-info-text-color: #d4d4d8}
"""


class Page:
    """What the page does: asks the model, plays stretches, keeps corrections.

    Args:
        sentence: says how far an answer of a probability can be trusted
        folder: of the corrections
    """

    def __init__(self, listener: Listener, sentence: Callable[[float], str], folder: Path) -> None:
        self.listener, self.sentence, self.folder = listener, sentence, folder

    def recognise(self, path: str | None) -> dict[str, Any]:
        """What is shown of an uploaded sound, by the name of what shows it."""
        if not path:
            return self._nothing()
        try:
            content = self._read(path)
            answer = self.listener.answer(content)
            samples, rate = self.listener.samples(content)
        except SoundstackError as error:
            return self._nothing() | {"verdict": pictures.refusal(_told(error))}
        said = corrections.Recognised(self.listener.name, answer.label, answer.probability)
        return {
            "verdict": pictures.verdict(answer, self.sentence(answer.probability)),
            "classes": answer.probabilities,
            "picture": pictures.spectrogram(answer, samples, rate),
            "opinions": pictures.opinions(answer.opinions, answer),
            "end": round(len(samples) / rate, 2),
            "label": answer.label,
            "said": (path, said),
        }

    def _nothing(self) -> dict[str, Any]:
        texts = dict.fromkeys(("verdict", "picture", "opinions"), "")
        return texts | {"classes": None, "end": 0, "label": None, "said": None}

    def stretch(self, path: str | None, start: float | None, end: float | None) -> tuple[int, NDArray[np.int16]]:
        """A part of an uploaded sound, for the browser to play: rate in Hz and samples (frames, channels of at most 2).

        Start and end are in seconds.

        Raises:
            SoundstackError: There is no sound, or nothing in that part.
        """
        samples, rate = self._sound(path)
        part = samples[round(max(0.0, start or 0.0) * rate) : round(max(0.0, end or 0.0) * rate)]
        if not len(part):
            raise ConfigError(f"Give a start before the end, from 0 to {len(samples) / rate:.2f} s.")
        return rate, np.rint(32767 * np.clip(part[:, :2], -1, 1)).astype(np.int16)

    def correct(self, path: str | None, label: str | None, group: str, said: tuple[str, Any] | None) -> str:
        """Keep an uploaded sound with its right label, and say where.

        Raises:
            SoundstackError: There is no sound or no label, one cannot be used, or the folder cannot be written.
        """
        sound = self._sound(path)
        chosen = corrections.checked_text("label", label or "", self.listener.labels)
        if not chosen:
            raise ConfigError("Choose the right class, or write a new one.")
        recognised = said[1] if said and said[0] == path else corrections.Recognised(self.listener.name)
        checked = corrections.checked_text("recording", group)
        file, rows = corrections.save(self.folder, sound, chosen, checked, recognised)
        return f"Saved as {chosen}: {file.name}. {corrections.TABLE} has {rows} row{'s' if rows > 1 else ''} now."

    def _read(self, path: str | None) -> bytes:
        if not path:
            raise ConfigError("Record or drop a sound first.")
        try:
            self.listener.limits.check_bytes(Path(path).stat().st_size)
            return Path(path).read_bytes()
        except OSError:
            raise ConfigError("The sound is not kept any longer; record or drop it again.") from None

    def _sound(self, path: str | None) -> tuple[Any, int]:
        return self.listener.samples(self._read(path))


def _told(error: SoundstackError) -> str:
    return f"The sound {error}." if isinstance(error, AudioError) else str(error)


def blocks(page: Page) -> gr.Blocks:
    """Make the page: what stands on it, and what happens when it is used."""
    import gradio as gr

    title = f"Soundstack: {page.listener.name}"
    with gr.Blocks(title=title, delete_cache=DELETED, analytics_enabled=False) as made:
        _connect(page, _laid_out(page.listener))
    made.queue(max_size=WAITING, api_open=False)
    return made


def _laid_out(listener: Listener) -> dict[str, Any]:
    """Lay the page out; what is on it by its name, which for parts of an answer is that in :meth:`Page.recognise`."""
    import gradio as gr

    names = [(label.replace("_", " "), label) for label in listener.labels]
    if NONE not in listener.labels:
        names.append(("none of these", NONE))
    longest = f"{listener.limits.max_seconds:g} s"
    on: dict[str, Any] = {}
    gr.Markdown(f"# {escape(listener.name)}\nRecord a sound or drop a file, of at most {longest}.")
    on["said"] = gr.State(None, time_to_live=DELETED[1])
    with gr.Row():
        with gr.Column():
            on["sound"] = gr.Audio(sources=["microphone", "upload"], type="filepath", label="Sound", buttons=[])
            on["verdict"] = gr.HTML(elem_id="verdict")
        on["classes"] = gr.Label(num_top_classes=_SHOWN_CLASSES, label="Probabilities", show_heading=False)
    on["picture"] = gr.HTML(elem_id="picture")
    on["opinions"] = gr.HTML(elem_id="opinions")
    with gr.Row():
        with gr.Column():
            gr.Markdown("### Listen to a part")
            with gr.Row():
                on["start"] = gr.Number(0, label="From (s)", minimum=0, step=0.1)
                on["end"] = gr.Number(0, label="To (s)", minimum=0, step=0.1)
            on["play"] = gr.Button("Play this part")
            on["heard"] = gr.Audio(label="Part", interactive=False, autoplay=True, buttons=[], visible=False)
        with gr.Column():
            gr.Markdown("### Correct the label")
            what = "Right class (or write a new one)"
            on["label"] = gr.Dropdown(names, value=None, label=what, allow_custom_value=True)
            on["group"] = gr.Textbox(
                label="Recording (optional)",
                info="Sounds of one recording, speaker or day share a name and are never torn apart by a split",
                max_length=100,
            )
            on["save"] = gr.Button("Save the correction", variant="primary")
            on["saved"] = gr.HTML(elem_id="saved")
    return on


def _connect(page: Page, on: dict[str, Any]) -> None:
    """Say what happens when the page is used; refusals are shown, and none of it is offered to programs."""
    import gradio as gr

    def shown(path: str | None) -> dict[Any, Any]:
        found = {on[name]: value for name, value in page.recognise(path).items()}
        return found | {on["start"]: 0, on["heard"]: gr.update(value=None, visible=False), on["saved"]: ""}

    def played(*values: Any) -> Any:
        return gr.update(value=page.stretch(*values), visible=True)

    def kept(*values: Any) -> str:
        return pictures.told(page.correct(*values))

    def telling(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*values: Any) -> Any:
            try:
                return act(*values)
            except SoundstackError as error:
                raise gr.Error(_told(error), duration=10, print_exception=False) from None

        return acted

    def some(*names: str) -> list[Any]:
        return [on[name] for name in names]

    hidden: dict[str, Any] = {"api_visibility": "private"}
    answered = some("verdict", "classes", "picture", "opinions", "end", "label", "said", "start", "heard", "saved")
    on["sound"].change(shown, on["sound"], answered, trigger_mode="always_last", concurrency_limit=1, **hidden)
    on["play"].click(telling(played), some("sound", "start", "end"), on["heard"], concurrency_limit=2, **hidden)
    given = some("sound", "label", "group", "said")
    on["save"].click(telling(kept), given, on["saved"], concurrency_limit=2, **hidden)


@contextmanager
def served(page: Page, host: str, port: int, *, password: str = "", only_here: bool = True) -> Iterator[str]:
    """Show the page while the block runs; what was uploaded is removed afterwards.

    Args:
        password: asked for, with the user name ``soundstack``, where it is not empty
        only_here: whether the page is asked for by names of this machine alone

    Yields:
        The page's address.

    Raises:
        ConfigError: The port or the address cannot be had.
    """
    prefix = "soundstack-page-"
    with TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder, _environment(folder, host):
        with warnings.catch_warnings(action="ignore"):  # it remarks on an FFmpeg program, which nothing here needs
            import gradio as gr
        from starlette.middleware import Middleware

        limits = page.listener.limits
        hosts = frozenset({host, "localhost", "127.0.0.1", "::1"}) if only_here else frozenset()
        gate = Middleware(Gate, folder=Path(folder), max_bytes=limits.max_bytes, hosts=hosts)
        made = blocks(page)
        font, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # others would be fetched
        try:
            _, address, _ = made.launch(
                **_PLAIN,
                server_name=f"[{host}]" if ":" in host else host,
                server_port=port,
                auth=(USER, password) if password else None,
                max_file_size=limits.max_bytes,
                state_session_capacity=_SESSIONS,
                app_kwargs={"middleware": [gate], "docs_url": None, "redoc_url": None, "openapi_url": None},
                theme=gr.themes.Default(primary_hue="blue", font=font, font_mono=mono),
                css=_CSS,
            )
        except OSError:
            raise ConfigError(f"port: {port} of {host} cannot be had; end what uses it, or give another one.") from None
        try:
            yield address
        finally:
            made.close(verbose=False)


@contextmanager
def _environment(folder: str, host: str) -> Iterator[None]:
    """Set Gradio up, which reads its environment: no telemetry, files in a folder of its own, nothing of the user's.

    It also asks its own server whether it answers, which no proxy can tell.
    """
    not_by_proxy = f"{os.environ.get('no_proxy') or os.environ.get('NO_PROXY', '')},localhost,127.0.0.1,{host}"
    ours = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_EXAMPLES_CACHE": folder,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": not_by_proxy,
        "no_proxy": not_by_proxy,
    }
    before = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_") or name in ours}
    for name in before:
        del os.environ[name]
    os.environ |= ours
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
        os.environ |= before
