"""Writes a demo video's words: title, prompt and tags, in English or Chinese, with varied and sometimes wrong words."""

from dataclasses import dataclass

import numpy as np

from tfrec.data.demo import looks
from tfrec.data.demo.looks import Look

_WRONG_WORD = 0.12  # share of words that say nothing true, as titles do
_KINDS = {
    "colour": looks.COLOURS,
    "shape": looks.SHAPES,
    "mood": looks.MOODS,
    "texture": looks.TEXTURES,
    "motion": looks.MOTIONS,
    "timbre": looks.TIMBRES,
}
_ENGLISH = {
    "red": "red|crimson|scarlet",
    "orange": "orange|amber|golden",
    "green": "green|emerald|leafy",
    "teal": "teal|turquoise|mint",
    "blue": "blue|azure|ocean blue",
    "violet": "violet|purple|indigo",
    "pink": "pink|rosy|magenta",
    "circle": "circle|ball|bubble|moon",
    "triangle": "triangle|pyramid|arrowhead",
    "square": "square|cube|tile",
    "hexagon": "hexagon|honeycomb cell|crystal",
    "star": "star|starfish|spark",
    "heart": "heart|love heart|valentine",
    "dreamy": "dreamy|sleepy|slow",
    "calm": "calm|gentle|relaxing",
    "lively": "lively|upbeat|cheerful",
    "wild": "wild|frantic|hyper",
    "gradient": "a plain glow|a soft gradient",
    "waves": "ripples|concentric waves",
    "stripes": "stripes|striped fabric",
    "dots": "polka dots|dots",
    "checker": "a chessboard|checkered tiles",
    "clouds": "clouds|drifting fog",
    "drift": "drifting by|sliding past",
    "zoom": "pulsing|zooming in and out",
    "orbit": "in orbit|circling around",
    "bounce": "bouncing|jumping up and down",
    "spin": "spinning|twirling",
    "flute": "flute|soft whistle",
    "piano": "piano|music box",
    "brass": "brass|trumpet",
    "synth": "synth|electric lead",
}
_CHINESE = {
    "red": "红色|绯红",
    "orange": "橙色|金色",
    "green": "绿色|翠绿",
    "teal": "青色|薄荷色",
    "blue": "蓝色|海蓝",
    "violet": "紫色|靛紫",
    "pink": "粉色|玫红",
    "circle": "圆球|泡泡|月亮",
    "triangle": "三角形|金字塔",
    "square": "方块|立方体",
    "hexagon": "六边形|水晶",
    "star": "星星|海星",
    "heart": "爱心|心形",
    "dreamy": "梦幻|慵懒",
    "calm": "平静|治愈",
    "lively": "活泼|欢快",
    "wild": "狂野|疯狂",
    "gradient": "渐变|柔光",
    "waves": "波纹|涟漪",
    "stripes": "条纹|斑马纹",
    "dots": "波点|圆点",
    "checker": "棋盘格|格子",
    "clouds": "云雾|云海",
    "drift": "飘过|滑行",
    "zoom": "缩放|忽大忽小",
    "orbit": "环绕|公转",
    "bounce": "弹跳|蹦蹦跳跳",
    "spin": "旋转|转圈",
    "flute": "长笛|口哨",
    "piano": "钢琴|八音盒",
    "brass": "铜管|小号",
    "synth": "合成器|电子音",
}
_ENGLISH_TITLES = (
    "{mood} {colour} {shape}",
    "{shape} {motion}, so {mood}",
    "watch this {colour} {shape} {motion}",
    "{mood} vibes: {colour} {shape}",
    "when the {shape} is {motion}",
    "{colour} {shape} and {mood} {timbre} music",
    "AI made a {mood} {shape}",
    "POV: {colour} {shape} {motion}",
)
_CHINESE_TITLES = (
    "{mood}的{colour}{shape}",
    "{colour}{shape}{motion}，太{mood}了",
    "看{colour}{shape}{motion}",
    "{mood}氛围：{colour}{shape}",
    "AI生成的{mood}{shape}",
    "{shape}{motion}配{mood}{timbre}",
)
_ENGLISH_PROMPTS = (
    "a {colour} {shape} {motion} over {texture}, {mood} mood, 4k",
    "{texture} in {colour}, a {shape} {motion}, cinematic",
    "short loop, {mood} {timbre} soundtrack, {colour} {shape}, background of {texture}",
    "{colour} palette, {shape} {motion}, smooth animation, {timbre} melody",
)
_CHINESE_PROMPTS = (
    "{colour}的{shape}在{texture}上{motion}，{mood}风格，高清",
    "{texture}背景，{colour}{shape}{motion}，电影感",
    "循环短片，{mood}的{timbre}配乐，{colour}{shape}，{texture}",
    "{colour}色调，{shape}{motion}，流畅动画，{timbre}旋律",
)


@dataclass(frozen=True)
class Words:
    """What is written about one video; `tags` are joined by `|`."""

    title: str
    prompt: str
    tags: str


def write(look: Look, chinese: bool, rng: np.random.Generator) -> Words:
    """Writes about `look`; each word is wrong with a probability of 12 %."""
    titles, prompts = (_CHINESE_TITLES, _CHINESE_PROMPTS) if chinese else (_ENGLISH_TITLES, _ENGLISH_PROMPTS)
    tags = [_said(look, field, rng) for field in rng.permutation(("colour", "mood", "motion", "shape"))[:2]]
    return Words(
        title=_fill(titles, look, chinese, rng),
        prompt=_fill(prompts, look, chinese, rng),
        tags="|".join(tags),
    )


def _fill(templates: tuple[str, ...], look: Look, chinese: bool, rng: np.random.Generator) -> str:
    vocabulary = _CHINESE if chinese else _ENGLISH
    words = {field: _pick(vocabulary[_said(look, field, rng)].split("|"), rng) for field in _KINDS}
    return _pick(templates, rng).format(**words)


def _said(look: Look, field: str, rng: np.random.Generator) -> str:
    """The kind that is named for `field`: mostly the true one."""
    wrong = rng.random() < _WRONG_WORD
    return _pick(_KINDS[field], rng) if wrong else str(getattr(look, field))


def _pick(choices: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]
