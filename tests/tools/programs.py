"""Programs and tests that the tests of the sandbox share."""

ADD = "def add(a, b):\n    return a + b\n"
SQUARE = "def square(x):\n    return x * x\n"
TESTS = (
    "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(3) - 9) < 1e-6\n\ncheck(square)\n"
)
LONG = 30.0  # seconds: of programs that end by themselves, on a machine that does other things
WRONG = "def square(x):\n    return 7\n"
