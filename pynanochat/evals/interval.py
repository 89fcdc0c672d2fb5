"""How sure an accuracy is: the Wilson score interval, 95 %.

low, high = wilson(17, 50)      0.2244, 0.4785

Unlike p ± 1.96·√(p(1-p)/n) it stays within 0 and 1 and has a width where nothing, or everything, was right.
"""

import math

Z = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(correct: float, total: int) -> tuple[float, float]:
    """(low, high) for `correct` successes of `total`; (0, 1) where there were no trials.

    `correct` may be a sum of fractions, as pass@k gives them.
    """
    if total <= 0:
        return 0.0, 1.0
    p, z2 = correct / total, Z * Z
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = Z / (1 + z2 / total) * math.sqrt(max(0.0, p * (1 - p) / total + z2 / (4 * total * total)))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
