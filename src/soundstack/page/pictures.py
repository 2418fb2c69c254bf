"""What the page shows of an answer, as HTML in which a label stands for itself: nothing that it holds is run."""

from __future__ import annotations

import base64
import io

import numpy as np
from markupsafe import Markup

from soundstack.audio.decode import Samples
from soundstack.evaluation.sound_plots import labelled_spectrogram_figure
from soundstack.page.answers import Answer, Opinion
from soundstack.spectrograms.picture import DeepSpectrumPicture


def spectrogram(answer: Answer, samples: Samples, rate: int) -> Markup:
    """The spectrogram of a sound, (frames, channels) at ``rate`` Hz, below its timeline, as a picture in the page."""
    labels = [window["label"] for window in answer.timeline]
    starts, ends = ([window[name] for window in answer.timeline] for name in ("start", "end"))
    levels = DeepSpectrumPicture(rate).decibel(samples.mean(axis=1))
    figure = labelled_spectrogram_figure(levels, rate, len(samples) / rate, starts, ends, labels)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return Markup('<img src="data:image/png;base64,{}" alt="{}" style="width: 100%">').format(
        base64.b64encode(picture.getvalue()).decode(), described(answer)
    )


def described(answer: Answer) -> str:
    """The timeline in words, for who does not see it: stretches of one label, of many the first ones."""
    stretches: list[list[float | str]] = []
    for window in answer.timeline:
        if stretches and stretches[-1][2] == window["label"]:
            stretches[-1][1] = window["end"]
        else:
            stretches.append([window["start"], window["end"], window["label"]])
    told = "; ".join(f"{start:.1f} to {end:.1f} s: {label}" for start, end, label in stretches[:20])
    return f"Spectrogram and timeline. {told}{' ...' if len(stretches) > 20 else ''}"


def verdict(answer: Answer, sentence: str) -> Markup:
    """The recognised class, and how far that can be trusted."""
    return Markup("<p><strong>{}</strong>, {} %. {}</p>").format(
        answer.label, f"{100 * answer.probability:.0f}", sentence
    )


def opinions(said: list[Opinion], answer: Answer) -> Markup:
    """A table of what each member of a fusion says by itself; empty where there are none."""
    if not said:
        return Markup()
    row = Markup("<tr><td>{}</td><td>{}</td><td>{} %</td></tr>")
    rows = [row.format(each.model, each.label, f"{100 * each.probability:.0f}") for each in said]
    agree = np.count_nonzero([each.label == answer.label for each in said])
    return Markup(
        "<table style='width: 100%'><caption>What each member says by itself ({} of {} agree with the fusion)</caption>"
        "<thead><tr><th>member</th><th>class</th><th>probability</th></tr></thead><tbody>{}</tbody></table>"
    ).format(agree, len(said), Markup().join(rows))


def told(text: str) -> Markup:
    """What was done."""
    return Markup('<p role="status">{}</p>').format(text)


def refusal(problem: str) -> Markup:
    """Why a sound has no answer."""
    return Markup('<p role="alert">{}</p>').format(problem)
