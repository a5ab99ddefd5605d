"""100 answers that look like the gold one or unlike it: half are right, half are wrong."""

import pytest

pytest.importorskip("math_verify")

from alpkit.tasks.math.equivalence import equivalent, fault

# gold | answer | right?
PAIRS = r"""
4 | 4.0 | right
4 | 2+2 | wrong
4 | \sqrt{16} | wrong
42 | 6 \times 7 | wrong
7 | 3+4=7 | right
7 | x+1=7 | wrong
-5 | −5 | right
5 | -5 | wrong
0.5 | .5 | right
0.5 | 0.05 | wrong
\frac{3}{4} | 0.75 | right
\frac{3}{4} | \frac{4}{3} | wrong
\frac{3}{4} | \dfrac{6}{8} | right
\frac{3}{4} | \frac{3}{4}x | wrong
\frac34 | 3/4 | right
\frac{3}{4} | 3,4 | wrong
-\frac{1}{2} | \frac{-1}{2} | right
-\frac{1}{2} | \frac{1}{2} | wrong
\frac{1}{3} | 0.333333 | right
\frac{1}{3} | 0.33 | wrong
\frac{11}{4} | 2\frac{3}{4} | right
\frac{11}{4} | 2 \cdot \frac{3}{4} | wrong
1\frac{1}{2} | 1 1/2 | right
1\frac{1}{2} | \frac{11}{2} | wrong
\frac{4}{11} | 0.\overline{36} | right
\frac{4}{11} | 0.36 | wrong
5\text{ cm} | 5 | right
5\text{ cm} | 5\text{ m} | wrong
5\text{ cm} | 5 centimeters | right
5\text{ cm} | 5\text{ cm}^2 | wrong
12\text{ cm}^2 | 12\text{ square centimeters} | right
2\text{ hours} | 2\text{ minutes} | wrong
60\text{ km/h} | 60 \text{ kilometers per hour} | right
60\text{ km/h} | 60\text{ m/s} | wrong
25\text{ m/s} | 25 | right
24\text{ cm}^3 | 24\text{ cm}^2 | wrong
\$36 | 36 | right
\$36 | 36\text{ cents} | wrong
36 | \$36.00 | right
8 | 8 \text{ apples} | right
120^\circ | 120 | right
120^\circ | 120\text{ rad} | wrong
120^\circ | 120^{\circ} | right
120^\circ | 12^\circ | wrong
50\% | 0.5 | right
50\% | 5\% | wrong
50\% | \frac{1}{2} | right
0.5 | 0.5\% | wrong
15 | 15\% | right
0.15 | 15 | wrong
-4\% | -0.04 | right
-4\% | 4\% | wrong
1,234 | 1234 | right
1234 | 1,2,3,4 | wrong
1{,}234 | 1234.0 | right
1234 | 1.234 | wrong
1200 | 1.2\times10^3 | right
1200 | 1.2\times10^4 | wrong
[0,1) | \left[0, 1\right) | right
[0,1) | [0,1] | wrong
[0,1) | 0 \le x < 1 | right
[0,1) | (0,1] | wrong
(-\infty,3) | x<3 | right
(-\infty,3) | (-\infty,3] | wrong
(-\infty,3) | x\in(-\infty,3) | right
[3,\infty) | (3,\infty) | wrong
(-\infty,0)\cup(2,\infty) | (2,\infty) \cup (-\infty,0) | right
(-\infty,0)\cup(2,\infty) | (-\infty,0)\cap(2,\infty) | wrong
(-\infty,0)\cup(2,\infty) | x<0 \text{ or } x>2 | right
(-\infty,0)\cup(2,\infty) | (-\infty,2) | wrong
\{1,2\} | \{2, 1\} | right
\{1,2\} | (1,2) | wrong
\{1,2\} | \left\{ 1, 2 \right\} | right
\{1,2\} | \{1,2,3\} | wrong
2, 3 | x=3, x=2 | right
2, 3 | 2 | wrong
2, 3 | 3 \text{ and } 2 | right
2, 3 | 2, 2 | wrong
3, -3 | \pm 3 | right
\emptyset | \{0\} | wrong
\emptyset | \{\} | right
(4,2) | (2,4) | wrong
(4,2) | \left( 4,\, 2 \right) | right
(4,2) | 4, 2 | wrong
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix} | right
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&3\\2&4\end{pmatrix} | wrong
\begin{pmatrix}1\\2\end{pmatrix} | \left(\begin{array}{c}1\\2\end{array}\right) | right
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}1&2\end{pmatrix} | wrong
\begin{pmatrix}\frac12&0\\0&1\end{pmatrix} | \begin{pmatrix}0.5&0\\0&1\end{pmatrix} | right
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{vmatrix}1&2\\3&4\end{vmatrix} | wrong
2\sqrt{3} | \sqrt{12} | right
2\sqrt{3} | 3\sqrt{2} | wrong
\pi | 3.14159 | right
\pi | 3.14 | wrong
x^2+2x+1 | (x+1)^2 | right
x^2+2x+1 | x^2+1 | wrong
y=2x+1 | 2x-y+1=0 | right
y=2x+1 | y=2x-1 | wrong
\ln 2 | \log 2 | wrong
1101_2 | 1101_{2} | right
1101_2 | 1101_3 | wrong
\infty | -\infty | wrong
-1+2i, -1-2i | -1 \pm 2i | right
\text{Monday} | monday | right
\text{Monday} | \text{Sunday} | wrong
B | \text{(B)} | right
"""
CASES = [tuple(part.strip() for part in line.split(" | ")) for line in PAIRS.strip().splitlines()]


def test_there_are_100_pairs_and_half_of_them_are_wrong():
    wrong = sum(verdict == "wrong" for _, _, verdict in CASES)
    assert len(CASES) >= 100
    assert abs(wrong - len(CASES) / 2) <= 3


@pytest.mark.parametrize(("gold", "answer", "verdict"), CASES)
def test_the_verdict_on_an_answer_that_looks_right_or_wrong(gold, answer, verdict):
    assert equivalent(gold, answer) is (verdict == "right")


@pytest.mark.parametrize(
    "answer", ["", "{", "}", "$", ",", "1,,2", r"\frac", r"\boxed{", "(", "1)", r"\{1"]
)
def test_what_is_no_answer_is_wrong_and_no_error(answer):
    assert equivalent("1", answer) is False


@pytest.mark.parametrize(
    ("gold", "why"),
    [
        ("", "empty"),
        (r"\frac{1}{2", "braces"),
        ("x^2+", "neither a number nor an expression"),
        ("5, ", "nothing on one side"),
        ("5", ""),
        (r"\text{Monday}", ""),
        ("[0, 1)", ""),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", ""),
    ],
)
def test_a_gold_answer_that_cannot_be_read_says_why(gold, why):
    assert why in fault(gold)
    assert bool(fault(gold)) is bool(why)
