"""What runs inside the sandbox: two interpreters, started by their role, that talk over two pipes.

    python -I -S -c SOURCE program FD_PROGRAM FD_REQUESTS FD_ANSWERS
    python -I -S -c SOURCE judge FD_TESTS FD_ANSWERS FD_REQUESTS FD_VERDICT

"program" holds what the model wrote and answers calls to its functions. "judge" holds the tests, and runs them in an
interpreter that the model's code never entered: the program's names stand there as functions that send the arguments
over and get a plain value back. So the program sees neither the tests nor the verdict's pipe, cannot replace `assert`,
`check` or a builtin, and cannot answer with an object that claims to equal everything.

Plain values are None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset and range. They travel
as text of our own (`encode`, `decode`): importing json would double the time of a start, and marshal is not for hostile
data.
"""

import builtins
import os
import sys

LONGEST_MESSAGE = 16 << 20  # bytes
MESSAGE_SHOWN = 300  # characters of an exception
LIMITS = ("AS", "CPU", "FSIZE", "NPROC", "NOFILE", "CORE")
UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError, OverflowError, MemoryError)
CONTAINERS = {"l": list, "t": tuple, "S": set, "F": frozenset, "d": dict}


class Ended(BaseException):
    """The program's process cannot answer any more; no `except Exception` in the tests may swallow that."""


class ProgramError(Exception):
    """An exception of a class that only the program knows."""


def main(role, *words):
    """Run as `role`, with the file descriptors and (where nobody outside did it) the limits in `words`."""
    count = 4 if role == "judge" else 3
    fds, limits = [int(word) for word in words[:count]], words[count:]
    if limits:
        set_limits([int(limit) for limit in limits])
    (judge if role == "judge" else program)(*fds)


def set_limits(values):
    """Set `LIMITS`, hard and soft, where the system knows them and allows that."""
    import resource

    for name, value in zip(LIMITS, values, strict=True):
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            most = resource.getrlimit(kind)[1]
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(kind, (value, value))


def program(source_fd, requests_fd, answers_fd):
    """Run the program, say so, and answer the judge's requests until it closes the pipe."""
    source = read_all(source_fd)
    answer = {}
    names = {"__name__": "program", "__builtins__": builtins}
    try:
        exec(compile(source, "program", "exec", dont_inherit=True), names)
    except BaseException as error:
        answer = failure(error)
    sys.stdout.flush()
    send(answers_fd, answer)
    while (message := receive(requests_fd)) is not None:
        try:
            answer = encode(reply(decode(message), names))
        except BaseException as error:
            answer = encode(failure(error))
        sys.stdout.flush()
        send_text(answers_fd, answer)


def reply(request, names):
    """What the program has under the names asked for, or the value of a call."""
    if "names" in request:
        return {name: describe(names[name]) for name in request["names"] if name in names}
    called = names[request["call"]]
    return {"value": called(*request["args"], **request["kwargs"])}


def describe(value):
    """A function, a module or a plain value."""
    if isinstance(value, type(sys)):
        return {"module": value.__name__}
    if callable(value):
        return {"function": True}
    try:
        encode(value)
    except TypeError:
        return {}
    return {"value": value}


def failure(error):
    return {"error": [type(error).__name__, str(error)[:MESSAGE_SHOWN], isinstance(error, Exception)]}


def judge(tests_fd, answers_fd, requests_fd, verdict_fd):
    """Run the tests against the program and write "NONCE passed" or "NONCE failed REASON" as the verdict."""
    import _signal  # `signal` itself would import enum, which takes as long as starting

    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    nonce, tests = read_all(tests_fd).split(b"\n", 1)
    line = Line(answers_fd, requests_fd)
    try:
        reason = try_tests(line, tests)
    except BaseException as error:
        reason = line.ended or describe_failure(error)
    send_text(verdict_fd, f"{nonce.decode()} {'failed' if reason else 'passed'} {reason or ''}")
    os._exit(0)


def try_tests(line, tests):
    """Why the program failed, or None."""
    code = compile(tests, "tests", "exec", dont_inherit=True)
    line.receive()
    names = {"__name__": "tests", "__builtins__": builtins}
    wanted = sorted(name for name in names_in(code) if not hasattr(builtins, name) and not name.startswith("__"))
    for name, about in line.ask({"names": wanted}).items():
        if name not in wanted or not isinstance(about, dict):
            continue
        if about.get("function"):
            names[name] = line.function(name)
        elif "module" in about:
            # the judge's own copy, under the name that it is used by: `import math` stands in HumanEval's prompts
            if name in sys.stdlib_module_names:
                names[name] = __import__(name)
        elif "value" in about:
            names[name] = about["value"]
    exec(code, names)
    if line.ended:
        return line.ended
    return None if line.calls else "nothing was checked: the tests called nothing of the program"


def names_in(code):
    """Every name in a code object and those within it."""
    return set(code.co_names).union(*(names_in(c) for c in code.co_consts if isinstance(c, type(code))))


def describe_failure(error):
    if isinstance(error, AssertionError):
        return f"a test failed: {error}"[:MESSAGE_SHOWN] if str(error) else "a test failed"
    return f"{type(error).__name__}: {error}"[:MESSAGE_SHOWN]


class Line:
    """The judge's end of the two pipes."""

    def __init__(self, answers_fd, requests_fd):
        self.answers_fd, self.requests_fd = answers_fd, requests_fd
        self.calls = 0
        self.ended = ""

    def receive(self):
        """The program's next answer, a dict. Raises its exception, or Ended."""
        message = receive(self.answers_fd)
        if message is None:
            raise self.end("the program ended before the tests did")
        try:
            answer = decode(message)
            found = answer.get("error")
            if found is None:
                return answer
            name, message, ordinary = str(found[0]), str(found[1])[:MESSAGE_SHOWN], found[2] is True
        except UNREADABLE:
            raise self.end("the program's answer was unreadable") from None
        if not ordinary:
            raise self.end(f"the program ended itself: {name}: {message}")
        raise exception(name, message)

    def ask(self, request):
        try:
            send(self.requests_fd, request)
        except OSError:
            raise self.end("the program ended before the tests did") from None
        return self.receive()

    def function(self, name):
        def call(*args, **kwargs):
            self.calls += 1
            answer = self.ask({"call": name, "args": args, "kwargs": kwargs})
            if "value" not in answer:
                raise self.end("the program's answer was unreadable")
            return answer["value"]

        call.__name__ = name
        return call

    def end(self, reason):
        self.ended = self.ended or reason
        return Ended(reason)


def exception(name, message):
    """The builtin exception of that name, as the tests may expect one; else a ProgramError."""
    known = getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, Exception):
        try:
            return known(message)
        except TypeError:
            pass
    return ProgramError(f"{name}: {message}")


def encode(value):
    """A plain value as text. Raises TypeError for any other."""
    if value is None:
        return "n"
    if value is True or value is False:
        return "y" if value else "f"
    if isinstance(value, str):
        return f"s{len(value)}:{str.__str__(value)}"
    if isinstance(value, int):
        return f"i{int(value):x};"
    if isinstance(value, float):
        return f"r{float(value).hex()};"
    if isinstance(value, complex):
        return f"c{value.real.hex()}/{value.imag.hex()};"
    if isinstance(value, bytes | bytearray):
        return f"b{value.hex()};"
    if isinstance(value, range):
        return f"R{value.start:x}/{value.stop:x}/{value.step:x};"
    for kind, container in CONTAINERS.items():
        if isinstance(value, container):
            items = [each for pair in dict.items(value) for each in pair] if kind == "d" else list(value)
            return f"{kind}{len(items)}:{''.join(map(encode, items))}"
    raise TypeError(f"a {type(value).__name__} is no plain value, so that nothing can be compared with it")


def decode(text):
    """The inverse of `encode`. Raises one of UNREADABLE for what is no encoding."""
    value, end = decode_at(text, 0)
    if end != len(text):
        raise ValueError("more than one value")
    return value


def decode_at(text, at):
    """(the value that begins at `at`, where it ends)."""
    kind = text[at]
    if kind in "nyf":
        return {"n": None, "y": True, "f": False}[kind], at + 1
    if kind == "s" or kind in CONTAINERS:
        colon = text.index(":", at)
        size, end = int(text[at + 1 : colon]), colon + 1
        if not 0 <= size <= len(text) - end:
            raise ValueError("longer than the message")
        if kind == "s":
            return text[end : end + size], end + size
        items = []
        for _ in range(size):
            item, end = decode_at(text, end)
            items.append(item)
        items = zip(items[::2], items[1::2], strict=True) if kind == "d" else items
        return CONTAINERS[kind](items), end
    end = text.index(";", at)
    parts = text[at + 1 : end].split("/")
    if kind == "i":
        return int(parts[0], 16), end + 1
    if kind == "r":
        return float.fromhex(parts[0]), end + 1
    if kind == "c":
        return complex(float.fromhex(parts[0]), float.fromhex(parts[1])), end + 1
    if kind == "b":
        return bytes.fromhex(parts[0]), end + 1
    if kind == "R":
        return range(*(int(part, 16) for part in parts)), end + 1
    raise ValueError("no such kind")


def send(fd, message):
    send_text(fd, encode(message))


def send_text(fd, text):
    """Write a message: eight hexadecimal digits of its length in bytes, and its bytes."""
    data = text.encode("utf-8", "surrogatepass")
    data = memoryview(b"%08x" % len(data) + data)
    while data:
        data = data[os.write(fd, data) :]


def receive(fd):
    """The next message as text, or None at the end, and where what comes is no message."""
    try:
        size = int(read_exactly(fd, 8), 16)
        if not 0 <= size <= LONGEST_MESSAGE:
            return None
        return read_exactly(fd, size).decode("utf-8", "surrogatepass")
    except (ValueError, EOFError):
        return None


def read_exactly(fd, size):
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 16))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_all(fd):
    with open(fd, "rb") as file:
        return file.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
