"""Texts on which encoders are known to part: what an encoder must get right before it may encode a corpus."""

_SENTENCES = [
    "",
    " ",
    "\n",
    "a",
    "<eos>",
    "<eos><eos> a<eos>b <eos>\n<eos >",
    "< eos>\x00<eos>",
    "It's we'll I'M they'VE d'être 'tis ''s 's 't'll rock'n'roll don’t",
    "  two  spaces   three\t\ttabs \t mixed \n\n\n lines \r\n windows \r old\x0bvt\x0cff ",
    "trailing spaces    ",
    "    leading spaces",
    "non\u00a0breaking\u2009thin\u3000ideographic\u2028line\u2029paragraph\u0085next\u1680ogham\u205fmath\ufeffbom",
    "zero\u200bwidth\u200cnon\u200djoiner\u2060word\u00adsoft\u180emongolian",
    "".join(map(chr, range(0x20))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))),
    "0 1 12 123 1234 12345678901234567890 3.14 1,000,000 1e-9 0x1F 10% $5.00 №5 1st 2nd ½ ¾ ² ³ ₂ Ⅷ ① ㊿ 〇 〸",
    "٠١٢٣ ०१२३ ๐๑๒ １２３ 𝟘𝟙𝟚 𞥐𞥑 ௧௨ 一二三",
    "e\u0301 é E\u0300\u0301\u0302 a\u0308\u0323 n\u0303o \u0301 \u0301a x\u20dd ",
    "Z\u0351\u036b\u0343\u036a\u0302a\u0346lgo",
    "İı ŞşĞğ ß ẞ ﬁ ﬀ ǅ ʰ ª º K Å Ω",
    "👍 👍🏽 👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 🇩🇪🇫🇷 ❤\ufe0f ☕\ufe0e 1\ufe0f\u20e3 #\ufe0f\u20e3",
    "text😀text 😀😀😀 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f \u200d \u200da\u200d 👩\u200d",
    "你好，世界。這是中文！日本語のテキスト、カタカナ ｶﾀｶﾅ 한국어 텍스트 ᄒ ᅡ ᆫ 㐀𠀀𪜶𰀀",
    "שלום עולם! שָׁלוֹם مرحبا بالعالم، السَّلَامُ عَلَيْكُمْ \u202bRTL\u202c \u2067isolate\u2069 \u200fmark\u200e פּ ﷽ ﷺ",
    "नमस्ते दुनिया क्षत्रिय สวัสดีชาวโลก ก็ မြန်မာ ខ្មែរ ગુજરાતી தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල ལྷ་ས ᠮᠣᠩᠭᠣᠯ አማርኛ ᏣᎳᎩ ᚠᚢᚦ 𐌰𐌱 𒀀𒁀 𓀀𓁐",
    "Ελληνικά πολυτονικόν ᾳ Русский їй ћирилица Հայերեն ქართული Việt Nam ế ữ",
    "!@#$%^&*()_+-=[]{}|;:'\",.<>/?`~ ... --- ___ *** === /// ¿¡ «» „“ ‚‘ – — … • † ‡ ‰ € £ ¥ ₹ ",
    "™ © ® ° ± × ÷ ∑ ∞ ≠ → ⇒",
    "snake_case camelCase kebab-case path/to/file.txt https://example.org/a?b=c&d=%20#e user@example.org C++ C# .NET",
    "\ue000\uf8ff\ufffd\ufffe\uffff\U000e0001\U0010ffff \U000f0000a",
    "a\ufe0f \u034f \u115f\u1160\u3164 \uffa0 \u061c \u2800",
]
_RUNS = ["a", " ", "\n", "\t", "ab", "1", ".", "é", "中", "😀", "\u0301", "<eos>", "the ", " a", "\x00", "A'"]
_RUN = 3000  # characters and more: past the bound on what an encoder keeps of a piece it has seen
# Every code point of most scripts; some of the long blocks above them, up to the last ideograph; tags.
_POINTS = [*range(0x3400), *range(0x3400, 0x33500, 13), *range(0xE0000, 0xE01F0, 13)]


def torture_texts() -> list[str]:
    """Hand-made texts, very long runs, and code points of every class between letters, numbers, spaces and marks.

    Never a surrogate, which is no text.
    """
    points = [chr(point) for point in _POINTS if not 0xD800 <= point < 0xE000]
    sweeps = ["".join(f"a{c}1 {c} " for c in points[start : start + 256]) for start in range(0, len(points), 256)]
    runs = [run * (_RUN // len(run)) for run in _RUNS]
    return [*_SENTENCES, *runs, *(f"x {run} y" for run in runs), *sweeps]
