"""The page itself: what stands on it, what happens when it is used, and the server that shows it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from soundstack.page import corrections, pictures
from soundstack.page.answers import Listener
from soundstack.page.gate import Gate
from soundstack.utils.errors import AudioError, ConfigError, SoundstackError
from soundstack.utils.markdown import escape

if TYPE_CHECKING:
    import gradio as gr

USER = "soundstack"
#: What stands in the table for a sound that is none of the classes.
NONE = "none"
#: Calls that wait, sessions that are remembered, and seconds after which what was uploaded is deleted.
_WAITING, _SESSIONS, _KEPT_SECONDS = 16, 64, 1800
_CSS = """
.gradio-container {max-width: 1160px !important; margin: 0 auto !important}
table caption {text-align: left; padding-bottom: .4em} th, td {text-align: left; padding: .2em .8em .2em 0}
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

    def stretch(self, path: str | None, start: float | None, end: float | None) -> bytes:
        """A WAV file of a part of an uploaded sound; start and end in seconds.

        Raises:
            SoundstackError: There is no sound, or nothing in that part.
        """
        samples, rate = self._sound(path)
        part = samples[round(max(0.0, start or 0.0) * rate) : round(max(0.0, end or 0.0) * rate)]
        if not len(part):
            raise ConfigError(f"Give a start before the end, from 0 to {len(samples) / rate:.2f} s.")
        file = io.BytesIO()
        soundfile.write(file, np.clip(part[:, :2], -1, 1), rate, format="WAV", subtype="PCM_16")
        return file.getvalue()

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
    """Lay the page out."""
    import gradio as gr

    def shown(path: str | None) -> list[Any]:
        found = page.recognise(path)
        return [
            found["verdict"],
            found["classes"],
            found["picture"],
            found["opinions"],
            0,
            found["end"],
            gr.update(value=found["label"]),
            found["said"],
            None,
            "",
        ]

    def said_in_the_page(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*values: Any) -> Any:
            try:
                return act(*values)
            except SoundstackError as error:
                raise gr.Error(_told(error), duration=10, print_exception=False) from None

        return acted

    listener = page.listener
    limits = listener.limits
    names = [(label.replace("_", " "), label) for label in listener.labels]
    if NONE not in listener.labels:
        names.append(("none of these", NONE))
    with gr.Blocks(
        title=f"Soundstack: {listener.name}", delete_cache=(300, _KEPT_SECONDS), analytics_enabled=False
    ) as made:
        gr.Markdown(f"# {escape(listener.name)}\nRecord a sound or drop a file, of at most {limits.max_seconds:g} s.")
        said = gr.State(None, time_to_live=_KEPT_SECONDS)
        with gr.Row():
            with gr.Column():
                sound = gr.Audio(sources=["microphone", "upload"], type="filepath", label="Sound", buttons=[])
                verdict = gr.HTML(elem_id="verdict")
            classes = gr.Label(num_top_classes=8, label="Probabilities", show_heading=False)
        picture = gr.HTML(elem_id="picture")
        opinions = gr.HTML(elem_id="opinions")
        with gr.Row():
            with gr.Group():
                gr.Markdown("### Listen to a part", padding=True)
                with gr.Row():
                    start = gr.Number(0, label="From (s)", minimum=0, step=0.1)
                    end = gr.Number(0, label="To (s)", minimum=0, step=0.1)
                play = gr.Button("Play this part")
                part = gr.Audio(label="Part", interactive=False, autoplay=True, buttons=[])
            with gr.Group():
                gr.Markdown("### Correct the label", padding=True)
                label = gr.Dropdown(
                    names, value=None, label="Right class (or write a new one)", allow_custom_value=True
                )
                group = gr.Textbox(
                    label="Recording (optional)",
                    info="Sounds of one recording, speaker or day share a name and are never torn apart by a split",
                    max_length=100,
                )
                save = gr.Button("Save the correction", variant="primary")
                saved = gr.HTML(elem_id="saved")
        hidden: dict[str, Any] = {"api_visibility": "private"}
        outputs = [verdict, classes, picture, opinions, start, end, label, said, part, saved]
        gr.on([sound.change], shown, sound, outputs, trigger_mode="always_last", concurrency_limit=1, **hidden)
        play.click(said_in_the_page(page.stretch), [sound, start, end], part, concurrency_limit=2, **hidden)
        inputs = [sound, label, group, said]
        save.click(
            said_in_the_page(lambda *v: pictures.told(page.correct(*v))), inputs, saved, concurrency_limit=2, **hidden
        )
    made.queue(max_size=_WAITING, api_open=False)
    return made


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
    with TemporaryDirectory(prefix="soundstack-page-", ignore_cleanup_errors=True) as folder:
        _quieten_gradio(folder)
        import gradio as gr
        from starlette.middleware import Middleware

        limits = page.listener.limits
        hosts = frozenset({host, "localhost", "127.0.0.1", "::1"}) if only_here else frozenset()
        gate = Middleware(Gate, folder=Path(folder), max_bytes=limits.max_bytes, hosts=hosts)
        made = blocks(page)
        font, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # others would be fetched
        try:
            _, address, _ = made.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=port,
                auth=(USER, password) if password else None,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                show_error=False,
                footer_links=[],
                run_history=False,
                max_file_size=limits.max_bytes,
                state_session_capacity=_SESSIONS,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                app_kwargs={"middleware": [gate], "docs_url": None, "redoc_url": None, "openapi_url": None},
                theme=gr.themes.Default(font=font, font_mono=mono),
                css=_CSS,
            )
        except OSError:
            raise ConfigError(f"port: {port} of {host} cannot be had; end what uses it, or give another one.") from None
        try:
            yield address
        finally:
            made.close(verbose=False)


def _quieten_gradio(folder: str) -> None:
    """Set Gradio up before it is imported: no telemetry, files in a folder of its own, nothing from the environment."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_EXAMPLES_CACHE": folder,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
