"""What the lab says, in each language it speaks. The figures' own signs and numbers are the same in all.

A page needs no font: its text is set by the reader's browser. Pictures do: see `figure_words`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kakusan.report.style import japanese_font


@dataclass(frozen=True)
class Words:
    """The texts of figures, animations and pages; those with braces are filled by `str.format`.

    Args:
        language: of the page, as HTML names it.
        needs_japanese: whether pictures need a font that matplotlib does not bring.
        titles: of figures and animations, by the name of their file; `{name}` is the set.
        labels: of runs, where they differ from what the code calls them.
        learnt: a set's name when a network stands in for the exact denoiser.
        one_step: after a run's label.
        steps: the same for more than one, `{n}`.
        detour: path length over distance, `{value}`.
        ends: how far a run ends, `{value}`, from another, `{label}`, in a figure.
        number_of_steps: under the errors.
        distance_to_flow: beside the errors.
        slope: measured order, `{value}`.
        density_heading: in the animation.
        score_heading: in the animation.
        shown_rescaled: under figures of schedules whose noise outgrows the window.
        page: the page's own texts, by place.
        seen: paragraphs beside the first picture of the page.
    """

    language: str
    needs_japanese: bool
    titles: Mapping[str, str]
    labels: Mapping[str, str]
    learnt: str
    one_step: str
    steps: str
    detour: str
    ends: str
    number_of_steps: str
    distance_to_flow: str
    slope: str
    density_heading: str
    score_heading: str
    shown_rescaled: str
    page: Mapping[str, str]
    seen: tuple[str, ...]

    def label(self, label: str) -> str:
        """A run's label in this language; names of samplers stay."""
        return self.labels.get(label, label)

    def step_count(self, n: int) -> str:
        """ "4 steps"."""
        return (self.one_step if n == 1 else self.steps).format(n=n)


ENGLISH = Words(
    language="en",
    needs_japanese=False,
    titles=MappingProxyType(
        {
            "density": "{name}: noise dissolves the data, one density $p_t$ after another",
            "score": "{name}: the score points to where data are likely",
            "velocity": "{name}: the velocity carries every point along the probability flow",
            "trajectories": "{name}: the same noise, carried to data",
            "families": "{name}: one noise, three ways to the data",
            "errors": "{name}: twice the steps divide the error by $2^{{\\mathrm{{order}}}}$",
            "forward": "{name}: density and score",
            "sampling": "{name}: the same noise on its way to data",
        }
    ),
    labels=MappingProxyType({}),
    learnt="{name}, learnt",
    one_step="{n} step",
    steps="{n} steps",
    detour="path length / distance = {value:.2f}",
    ends="ends {value:.2g} from the {label} (rms)",
    number_of_steps="number of steps",
    distance_to_flow="distance to the exact flow (median)",
    slope="slope {value:.1f}",
    density_heading=r"density  $p_t$",
    score_heading=r"score  $\nabla \log p_t$",
    shown_rescaled="where σ explodes, shown: xₜ / √(α² + σ²)",
    page=MappingProxyType(
        {
            "title": "{name}: from data to noise and back",
            "subtitle": "Every picture follows one clock. Move it, or press play.",
            "set": "set",
            "schedule": "schedule",
            "denoiser": "denoiser",
            "points": "points",
            "exact": "exact, in closed form",
            "network": "a network, trained on the spot",
            "sampling": "Sampling: {name} beside the exact flow",
            "families": "Three ways from one noise",
            "forward": "The density pₜ, and the field that undoes the noise",
            "truth": "where these starts truly lead",
            "fresh": "fresh noise at every step",
            "ends": "ends {value:.2g} from the exact flow",
            "rescaled": "Points are shown divided by √(α² + σ²), since their noise outgrows any window.",
            "errors": "Error over steps",
            "errors_caption": "Distance to the exact flow between log-SNR -4 and 4, on steps even in log-SNR, with the "
            "exact denoiser.",
            "sampler": "sampler",
            "steps": "steps",
            "calls": "network calls",
            "error": "error",
            "order": "measured order",
            "again": "Make it again",
            "arrows": "arrows",
            "none": "none",
            "score": "score",
            "velocity": "velocity",
            "show": "show",
            "paths": "paths",
            "ground": "density",
            "to_data": "◀ to data",
            "to_noise": "to noise ▶",
            "time": "Time",
            "slider": "Time, from data on the left to noise on the right",
            "panel": "{heading}: points on their way from noise to data, over the density at the slider's time",
            "forward_panel": "The density at the slider's time",
            "no_script": "The moving pictures need JavaScript; the figures of this folder show the same without.",
        }
    ),
    seen=(
        "The picture shows the density of noised data, exact at every t. The score is the slope of its logarithm; the "
        "velocity is the flow that carries density from one t to the next. Longer arrows are stronger (root scale).",
        "Below, all points begin at the same noise and keep the colour of the direction they began in. A flow is one "
        "curve for each start: its colours stay in order. DDPM adds fresh noise at every step: its colours end mixed, "
        "and the points are as many everywhere as the data are.",
        "The flow on this path and rectified flow end at the same points: they are one flow in other coordinates. The "
        "rectified path joins noise and data by straight lines, but these lines cross, and the flow follows their "
        "mean, so its curves are not straight before reflow. The number over each picture says how much longer the "
        "way is than its distance.",
    ),
)

JAPANESE = Words(
    language="ja",
    needs_japanese=True,
    titles=MappingProxyType(
        {
            "density": "{name}: ノイズがデータを溶かしていく。密度 $p_t$ の移り変わり",
            "score": "{name}: スコアはデータがありそうな方を指す",
            "velocity": "{name}: 速度はすべての点を確率流に沿って運ぶ",
            "trajectories": "{name}: 同じノイズをデータまで運ぶ",
            "families": "{name}: ひとつのノイズから、データへの三つの道",
            "errors": "{name}: ステップを2倍にすると誤差は1/2の次数乗になる",
            "forward": "{name}: 密度とスコア",
            "sampling": "{name}: 同じノイズがデータになるまで",
        }
    ),
    labels=MappingProxyType(
        {
            "exact flow": "厳密な流れ",
            "DDPM, ancestral": "DDPM (祖先サンプリング)",
            "probability flow ODE": "確率流 ODE",
            "rectified flow": "rectified flow",
        }
    ),
    learnt="{name} (学習済み)",
    one_step="{n} ステップ",
    steps="{n} ステップ",
    detour="経路の長さ / 距離 = {value:.2f}",
    ends="{label}の終点から {value:.2g} (二乗平均平方根)",
    number_of_steps="ステップ数",
    distance_to_flow="厳密な流れとの距離 (中央値)",
    slope="傾き {value:.1f}",
    density_heading=r"密度  $p_t$",
    score_heading=r"スコア  $\nabla \log p_t$",
    shown_rescaled="σ が大きくなる経路なので xₜ / √(α² + σ²) を表示",
    page=MappingProxyType(
        {
            "title": "{name}: データからノイズへ、そして戻る",
            "subtitle": "すべての図がひとつの時計に従う。動かすか、再生を押す。",
            "set": "集合",
            "schedule": "スケジュール",
            "denoiser": "デノイザー",
            "points": "点の数",
            "exact": "閉じた式による厳密なもの",
            "network": "その場で学習したネットワーク",
            "sampling": "サンプリング: {name} と厳密な流れ",
            "families": "ひとつのノイズからの三つの道",
            "forward": "密度 pₜ と、ノイズを戻す場",
            "truth": "これらの出発点が本当に行き着く先",
            "fresh": "ステップごとに新しいノイズ",
            "ends": "厳密な流れの終点から {value:.2g}",
            "rescaled": "ノイズがどんな窓よりも大きくなるので、点は √(α² + σ²) で割って示す。",
            "errors": "ステップ数と誤差",
            "errors_caption": "厳密なデノイザーを使い、log-SNR で -4 から 4 まで等間隔に進んだときの、"
            "厳密な流れとの距離。",
            "sampler": "サンプラー",
            "steps": "ステップ数",
            "calls": "ネットワークの呼び出し",
            "error": "誤差",
            "order": "測った次数",
            "again": "もう一度作るには",
            "arrows": "矢印",
            "none": "なし",
            "score": "スコア",
            "velocity": "速度",
            "show": "表示",
            "paths": "経路",
            "ground": "密度",
            "to_data": "◀ データへ",
            "to_noise": "ノイズへ ▶",
            "time": "時刻",
            "slider": "時刻。左がデータ、右がノイズ",
            "panel": "{heading}: ノイズからデータへ向かう点と、その時刻の密度",
            "forward_panel": "スライダーの時刻の密度",
            "no_script": "動く図には JavaScript が要る。このフォルダーの図は同じことを JavaScript なしで示す。",
        }
    ),
    seen=(
        "図はノイズを加えたデータの密度で、どの t でも厳密である。スコアはその対数の傾き、"
        "速度は密度をある t から次の t へ運ぶ流れである。長い矢印ほど強い (平方根の尺度)。",
        "下の図では、すべての点が同じノイズから出発し、出発した方向の色を保つ。流れは出発点ごとに一本の曲線なので、"
        "色の順序は変わらない。DDPM はステップごとに新しいノイズを加えるので、色は混ざって終わり、"
        "点はどこでもデータと同じ割合になる。",
        "この経路の流れと rectified flow は同じ点に着く。座標が違うだけで、ひとつの流れだからである。"
        "rectified flow の経路はノイズとデータを直線で結ぶが、直線どうしは交わり、流れはその平均に従うので、"
        "reflow の前の曲線は真っすぐではない。図の上の数は、道のりが距離の何倍かを示す。",
    ),
)

LANGUAGES: Mapping[str, Words] = MappingProxyType({"en": ENGLISH, "ja": JAPANESE})


def figure_words(words: Words) -> Words:
    """The words for pictures: these where a font of this system can draw them, else English."""
    return ENGLISH if words.needs_japanese and japanese_font() is None else words
