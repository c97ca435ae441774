"""The page on which the file's tokenizer and predictions are compared with the checkpoint's: code, digits, spaces, CJK, emoji."""

PAGE = '''def median(values: list[float]) -> float:
    """The middle of sorted values; the mean of two if there are two."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    half, odd = divmod(len(ordered), 2)
\treturn ordered[half] if odd else (ordered[half - 1] + ordered[half]) / 2  # tab before, two spaces here

>>> median([3, 1415.9265, 2_718_281, 0x1F, 1e-09])   # [42]
31.0
for i in range(10):write(f"{i:>3}|{i**2}", end="\\n\\n\\n")

ISBN 978-0-262-03384-8, 2026-11-27T04:50:00Z, 192.168.0.1:8080, 50%, $1,234,567.89, v0.32.0rc1, don't, we'll, IT'S, (a+b)^2 != a^2+b^2
#include <stdio.h>\r\nint main(void) { return printf("%d\\n", 07 << 3) & ~1 ? 0 : -1; }\r\n
Naïve café, Größe, Ærøskøbing, Привет, мир! Ελληνικά; العربية ١٢٣, עברית, हिन्दी, ไทย, Việt Nam.
天地玄黃,宇宙洪荒。日月盈昃,辰宿列張。私は猫である。名前はまだ無い。안녕하세요 세계, 2026년 11월 27일
Emoji: 🙂 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 ✈️ ☃ ∑∫√ ½ ² ™ … “quoted” ‘single’ – — •

    The end.   Trailing spaces   \n\n\n'''
