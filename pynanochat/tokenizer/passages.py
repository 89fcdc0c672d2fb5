"""Short passages of several kinds, for `pynanochat tokenizer eval`: what a vocabulary does on text it was not fed."""

PASSAGES = {
    "news": """\
The harbour ferry returned to service on Tuesday after six weeks of repairs, officials said, ending a detour that had \
added almost an hour to the morning journey of some 4,300 commuters. "We know that patience ran out a while ago," the \
port's director, Elena Marsh, told reporters at the pier. The vessel's gearbox failed on 12 March, and a replacement \
had to be shipped from Rotterdam. Local shop owners, who reported losses of up to 20% in the meantime, have asked the \
council for relief; a decision isn't expected before June.""",
    "korean": """\
우리 동네 도서관은 올해 봄에 새로 문을 열었습니다. 건물은 작지만 창문이 커서 햇빛이 잘 들어오고, 이 층에는 아이들이 \
그림책을 읽을 수 있는 넓은 방이 있습니다. 토요일마다 자원봉사자들이 옛날이야기를 들려주고, 어른들은 글쓰기 수업에 \
참여합니다. 지난달에는 2,500명이 다녀갔다고 합니다. 저는 비 오는 날에 이곳에서 책을 읽는 것을 가장 좋아합니다.""",
    "code": """\
class Ledger:
    \"\"\"Keeps balances by account; amounts are integers of cents.\"\"\"

    def __init__(self):
        self.balances = {}

    def transfer(self, source, target, amount):
        if amount <= 0:
            raise ValueError(f"amount is {amount}; it must be positive")
        if self.balances.get(source, 0) < amount:
            raise ValueError(f"{source!r} holds {self.balances.get(source, 0)}, not {amount}")
        self.balances[source] -= amount
        self.balances[target] = self.balances.get(target, 0) + amount

for (int i = 0; i < n; ++i) {
    total += weights[i] * values[i];  // dot product
}
""",
    "math": """\
Let $f(x) = x^3 - 3x + 1$. Then $f'(x) = 3x^2 - 3 = 3(x-1)(x+1)$, so that $f$ rises on $(-\\infty, -1]$, falls on \
$[-1, 1]$ and rises again. Since $f(-1) = 3 > 0$ and $f(1) = -1 < 0$, there are exactly three real roots. By the \
substitution $x = 2\\cos\\theta$ the equation becomes $8\\cos^3\\theta - 6\\cos\\theta + 1 = 0$, hence \
$\\cos 3\\theta = -\\frac{1}{2}$ and $\\theta = \\frac{2\\pi}{9} + \\frac{2\\pi k}{3}$ for $k = 0, 1, 2$. \\qed""",
    "science": """\
Chlorophyll absorbs mostly red and blue light, which drives the splitting of water in photosystem II: \
2 H2O → O2 + 4 H+ + 4 e−. The electrons pass along a chain of carriers to photosystem I, pumping protons across the \
thylakoid membrane; ATP synthase turns the resulting gradient, about 30 kJ/mol, into ATP. In the Calvin cycle the \
enzyme RuBisCO then fixes CO2 at a rate of only three molecules per second, and so leaves hold a lot of it.""",
}
